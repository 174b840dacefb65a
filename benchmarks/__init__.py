"""Ratios measured side by side in one run: `python -m benchmarks.<name> [key=value ...]` prints one JSON line last."""
