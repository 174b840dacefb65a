"""Strict configuration: Hydra in, checked dataclasses out, every value with its origin."""

from nemo_forking.config.load import build, load, provenance, with_overrides
from nemo_forking.config.record import read_resolved, resolved_yaml, save_resolved
from nemo_forking.config.schema import Config

__all__ = [
    "Config",
    "build",
    "load",
    "provenance",
    "read_resolved",
    "resolved_yaml",
    "save_resolved",
    "with_overrides",
]
