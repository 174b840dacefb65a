"""A benchmark's settings: a dataclass whose fields are declared as configuration keys are, set by key=value words."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import yaml

from nemo_forking.config.build import Builder
from nemo_forking.config.fields import describe, hints
from nemo_forking.errors import UserError


def from_words(schema: type, words: Sequence[str], **defaults: Any) -> Any:
    """An instance of `schema` from the command line's words, over `defaults`.

    Raises:
        UserError: a word is not key=value, a key is unknown, a value is of another type or out of range.
    """
    values = dict(defaults)
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise UserError(f"command line: {word!r} is not key=value; --help lists the keys")
        values[name] = yaml.safe_load(value)
    builder = Builder(schema, where=lambda _: "command line")
    settings = builder.build(values)
    if builder.problems:
        raise UserError("\n".join(builder.problems))
    return settings


def help_text(about: str, schema: type, **defaults: Any) -> str:
    """What the benchmark does and every key with its default."""
    lines = [about.strip(), ""]
    for field in dataclasses.fields(schema):
        expected = describe(hints(schema)[field.name], field.metadata["bounds"])
        default = defaults.get(field.name, field.default)
        lines.append(f"  {field.name + '=' + str(default):<24} {field.metadata['help']} ({expected})")
    return "\n".join(lines)
