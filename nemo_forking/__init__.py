"""Global forking tokens: teach one language model to reason in parallel, each way chosen by a single tag."""

__version__ = "0.1.0"
