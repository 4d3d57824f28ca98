"""Speed of attacks, votes and training beside other libraries: ``python -m benchmarks``."""
