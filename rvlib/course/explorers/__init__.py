"""Explorers of the notebooks: what the hand moves and what the eye sees."""
