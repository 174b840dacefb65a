"""Generation engines: token ids in, token ids and log-probabilities out."""

from nemo_forking.engines.interface import Completion, Engine, Request, request_seed

__all__ = ["Completion", "Engine", "Request", "request_seed"]
