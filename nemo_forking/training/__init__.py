"""The two-phase set step and the trainer around it."""
