"""Settings of the data: the conf group `data`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args, get_type_hints

from nemo_forking.errors import UserError

FlagRule = Literal["any", "not_false", "only_true"]
TAG_ROOM = 5  # tokens of the longer tag spelling; one prepared folder serves both spellings


@dataclass(frozen=True)
class DataConfig:
    """Settings of the data (conf group `data`).

    Attributes:
        source: JSONL files, read in this order
        folder: prepared folder to write, and to train from
        tokenizer: folder of a Hugging Face tokenizer
        format: columns of the source files (docs/data.md)
        prompt: "chat" for the tokenizer's chat template, or a template string with {question}
        system: system message of the chat template; null for the template's default
        target: template string of all that follows the tag, with {trace} and perhaps {answer}
        traces: M, the most traces of a question to keep
        min_traces: a question left with fewer is dropped
        choose: which M of the available traces (docs/data.md)
        teachers: use the traces of these teachers only; null for all
        complete: keep traces by this flag; not_false keeps true and absent
        correct: keep traces by this flag; not_false keeps true and absent
        max_length: longest prompt + tag + target, tokens, with room for either tag spelling; longer traces are dropped
        max_questions: stop after this many questions; null for all
        strict: stop at the first problem of any kind
        seed: seed of the choice of traces
        sample_down: in training, draw from a question's traces when they outnumber the tags, instead of refusing it
    """

    source: list[str] = field(default_factory=list)
    folder: str = ""
    tokenizer: str = ""
    format: Literal["native", "s1k"] = "native"
    prompt: str = "chat"
    system: str | None = None
    target: str = "{trace}<|im_start|>answer\n{answer}<|im_end|>"
    traces: int = 4
    min_traces: int = 1
    choose: Literal["balanced", "random", "order"] = "balanced"
    teachers: list[str] | None = None
    complete: FlagRule = "not_false"
    correct: FlagRule = "not_false"
    max_length: int = 32768
    max_questions: int | None = None
    strict: bool = False
    seed: int = 0
    sample_down: bool = False


def check_settings(config: DataConfig) -> None:
    """Refuse settings that cannot be prepared, before anything is read.

    Raises:
        UserError: naming the key and what it may be.
    """
    for name in ("format", "choose", "complete", "correct"):
        known = get_args(get_type_hints(DataConfig)[name])
        if getattr(config, name) not in known:
            raise UserError(f"data.{name} is {getattr(config, name)!r}; choose one of {', '.join(known)}")
    for name in ("folder", "tokenizer", "source"):
        if not getattr(config, name):
            raise UserError(f"data.{name} is not set; give data.{name}=...")
    for path in config.source:
        if not Path(path).is_file():
            raise UserError(f"data.source: {path} is not a file; give the path of a JSONL file with traces")
    if not 1 <= config.min_traces <= config.traces:
        raise UserError(
            f"data.min_traces is {config.min_traces}; it must lie between 1 and data.traces={config.traces}"
        )
    if config.max_length <= TAG_ROOM:
        raise UserError(f"data.max_length is {config.max_length}; it must leave room for a prompt, a tag and a trace")
    if config.max_questions is not None and config.max_questions < 1:
        raise UserError(f"data.max_questions is {config.max_questions}; give a number above 0, or null for all")
