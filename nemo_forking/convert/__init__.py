"""Weights from one kind of folder into another, and what the result computes held against its source."""
