"""Token losses and their weights."""
