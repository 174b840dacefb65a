"""The command line's syntax: values as it writes them, and what it sets."""

import re
from collections.abc import Mapping
from typing import Any

WORDS = ("true", "false", "null", "nan", "inf")  # which Hydra reads as something else than text


def key_of(override: str) -> str:
    """The key or group that an override sets."""
    return override.split("=", 1)[0]


def written(value: Any) -> str:
    """A plain value in the syntax of Hydra's overrides."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        if re.fullmatch(r"[A-Za-z_./][\w./-]*", value, re.ASCII) and value.lower() not in WORDS:
            return value
        quoted = re.sub(r'(\\*)"', r'\1\1\\"', value)  # backslashes count before a quote only
        return '"' + re.sub(r"(\\+)$", r"\1\1", quoted) + '"'
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {written(inner)}" for name, inner in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(written, value)) + "]"
    return repr(value)
