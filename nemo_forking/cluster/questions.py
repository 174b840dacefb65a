"""The questions of a study that generates its own: sources, tokenizer, and whether they are as asked for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from nemo_forking.config import Config
from nemo_forking.errors import UserError
from nemo_forking.tasks import many_ways


def make_questions(config: Config) -> None:
    """Write tokenizer/ and source/ of the laptop task to the run folder."""
    folder = Path(config.run.folder)
    many_ways.write(folder / "source", **_sizes(config))
    many_ways.make_tokenizer(folder / "tokenizer")


def differing(config: Config) -> Iterator[str]:
    """A line for every file that is not what `make_questions` would write; they are made again and compared."""
    folder = Path(config.run.folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if not (folder / "tokenizer" / name).is_file():
            yield f"{folder / 'tokenizer'} has no {name}"
    if not (folder / "source").is_dir():
        yield f"{folder / 'source'} is not there"
        return
    for name, content in many_ways.files(**_sizes(config)).items():
        file = folder / "source" / name
        if not file.is_file() or file.read_bytes() != content.encode():
            yield f"{file} is not as asked for"


def _sizes(config: Config) -> dict[str, int]:
    if config.study is None or config.study.questions is None:
        raise UserError("study.questions is not set: take experiment=tiny, or give data.source")
    questions = config.study.questions
    return {
        "base": questions.base,
        "train": questions.train,
        "rl": questions.rl if config.study.policies else 0,
        "heldout": questions.heldout,
        "seed": config.data.seed,
    }
