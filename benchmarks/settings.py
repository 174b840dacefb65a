"""A benchmark's command line: settings are a dataclass declared as configuration keys are, set by key=value words."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import yaml

from nemo_forking.config.build import Builder
from nemo_forking.config.fields import describe, hints, key
from nemo_forking.errors import UserError

Record = dict[str, Any]
WIDTHS_32B = {"hidden": 5120, "ffn": 27648, "heads": 40, "groups": 8}  # Qwen2.5-32B's


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    """The model that is measured, and how often.

    The defaults are for one CPU core: Qwen2.5-32B's widths over 8, and of its vocabulary 152064 x layers / 64 / 8 rows,
    so that the head's share of the work is that of 64 layers.
    """

    layers: int = key("decoder layers", default=2, at_least=1)
    hidden: int = key("hidden size", default=640, at_least=1)
    ffn: int = key("inner size of the MLP", default=3456, at_least=1)
    heads: int = key("attention heads", default=5, at_least=1)
    groups: int = key("key-value heads", default=1, at_least=1)
    vocabulary: int = key("rows of the embedding and of the head", default=594, at_least=16)
    chunk: int = key("ours: label rows whose logits are held at a time", default=1024, at_least=1)
    precision: Literal["fp32", "bf16"] = key("type of weights and activations", default="fp32")
    repeats: int = key("timed runs of each way; the median counts", default=3, at_least=1)
    seed: int = key("of weights, and of what is drawn besides", default=0)


def model_line(record: Record) -> str:
    """The model and the machine of a record, for people."""
    s = record["shape"]
    return (
        f"{s['layers']} layers, hidden {s['hidden']}, vocabulary {s['vocabulary']:,}, {s['precision']}; "
        f"{record['device']}, {record['threads']} threads"
    )


def run(
    about: str,
    schema: type,
    words: Sequence[str],
    *,
    measure: Callable[[Any], Record],
    show: Callable[[Record], None],
    problem: Callable[[Record], str | None],
    on_cpu: Mapping[str, Any] | None = None,
    on_gpu: Mapping[str, Any] | None = None,
) -> int:
    """Measure what the command line's words ask for, show it and, last, print the record as a line of JSON.

    Args:
        about: what the benchmark does, for --help.
        schema: its settings.
        words: of the command line.
        measure: gives the record of settings; may raise UserError.
        show: prints the record for people.
        problem: what is wrong with what was measured; None where nothing is.
        on_cpu: defaults of settings in place of the schema's.
        on_gpu: the same where torch sees a GPU.

    Returns:
        The exit status: 1 where something is wrong, 2 where nothing could be measured.
    """
    defaults = (on_gpu if on_gpu and _has_gpu() else on_cpu) or {}
    if {"-h", "--help"} & set(words):
        print(help_text(about, schema, **defaults))
        return 0
    try:
        record = measure(from_words(schema, words, **defaults))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    show(record)
    print(json.dumps(record), flush=True)
    if wrong := problem(record):
        print(f"error: {wrong}", file=sys.stderr)
        return 1
    return 0


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def from_words(schema: type, words: Sequence[str], **defaults: Any) -> Any:
    """An instance of `schema` from the command line's words, over `defaults`.

    Raises:
        UserError: a word is not key=value, a key is unknown, a value is unreadable, of another type or out of range.
    """
    values = dict(defaults)
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise UserError(f"command line: {word!r} is not key=value; --help lists the keys")
        try:
            values[name] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise UserError(f"command line: {word!r} has no value that YAML can read") from None
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
