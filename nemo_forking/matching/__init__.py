"""Which tag each trace is trained under: rules, the exchange between ranks, and statistics over training."""
