"""Campaigns of faults against training: `python -m tests.campaign --help`."""
