"""Jobs of a cluster: submitting them, checking their nodes, and the graph of an experiment."""
