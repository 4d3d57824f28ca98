"""The long works, each resumable: train, measure, certify.  What is on disk is not done again."""
