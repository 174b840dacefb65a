"""From the files of an RL data set to its prompts."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from nemo_forking.engines.progress import track
from nemo_forking.errors import UserError
from nemo_forking.evaluation.benchmarks.files import read_rows
from nemo_forking.evaluation.benchmarks.prompt import PromptTemplate
from nemo_forking.evaluation.benchmarks.row import Row
from nemo_forking.evaluation.benchmarks.sources import Source
from nemo_forking.rl.prompts.dapo import dapo_prompt
from nemo_forking.rl.prompts.intellect import intellect_prompt
from nemo_forking.rl.prompts.plain import plain_prompt
from nemo_forking.rl.prompts.prompt import ANSWERS, LeftOut, Prompt

SHAPES = {"dapo": dapo_prompt, "intellect": intellect_prompt, "plain": plain_prompt}
EXAMPLES = 3  # messages about skipped rows that are kept


@dataclass
class Reading:
    """What came of the rows of a data set.

    Attributes:
        prompts: in the order of the files, ids all different.
        rows: rows read.
        repeated: rows that only repeat an earlier one, id and all.
        left_out: reason -> rows of another task, language, or kind of answer than was asked for.
        skipped: field -> malformed rows; always empty where reading is strict.
        examples: messages about the first malformed rows.
    """

    prompts: list[Prompt] = field(default_factory=list)
    rows: int = 0
    repeated: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    def summary(self) -> dict:
        """The counts, JSON-able."""
        return {
            "rows": self.rows,
            "prompts": len(self.prompts),
            "repeated": self.repeated,
            "left_out": dict(self.left_out.most_common()),
            "skipped": dict(self.skipped.most_common()),
            "examples": self.examples,
        }


def read_prompts(
    source: Source,
    shape: str,
    templates: Mapping[str, PromptTemplate],
    *,
    strict: bool = True,
    progress: str | None = None,
) -> Reading:
    """Read an RL data set.

    Args:
        source: its files, as `benchmarks.sources.locate` finds them.
        shape: its columns, a key of `SHAPES`.
        templates: kind of answer -> template of the user's message; rows of a kind that has none are left
            out.
        strict: whether a malformed row is an error; else it is skipped and counted. A file that cannot be read to its
            end is an error in any case.
        progress: label of the progress bar; None shows none.

    Raises:
        UserError: a row is malformed or an id is used for two questions (strict), a file is damaged, or no prompt is
            left; the message names file, line, field and remedy.
    """
    if shape not in SHAPES:
        raise UserError(f"prompts.shape: {shape!r} is no shape of RL data; choose one of {', '.join(SHAPES)}")
    if not templates or set(templates) - set(ANSWERS):
        raise UserError(f"prompts.templates: templates must be given for one or more of {', '.join(ANSWERS)}")
    if {"math", "many_ways"} <= set(templates):
        raise UserError("prompts.templates: math and many_ways both; their rows look alike, so give one of the two")
    reading = Reading()
    seen: dict[str, tuple[str, bytes]] = {}  # id -> place and digest of the first row that had it
    rows = (row for path, shown in zip(source.files, source.names, strict=True) for row in read_rows(path, shown))
    for row in track(rows, None, progress):
        reading.rows += 1
        try:
            _take(row, SHAPES[shape](row, templates), seen, reading)
        except LeftOut as reason:
            reading.left_out[str(reason)] += 1
        except UserError as error:
            if strict:
                raise
            _skip(row, error, reading)
    if not reading.prompts:
        raise UserError(f"{', '.join(source.names)}: no prompt is left: {json.dumps(reading.summary())}")
    return reading


def _take(row: Row, prompt: Prompt, seen: dict[str, tuple[str, bytes]], reading: Reading) -> None:
    content = json.dumps([prompt.prompt, prompt.gold], ensure_ascii=False)
    digest = hashlib.blake2b(content.encode(), digest_size=12).digest()
    place, first = seen.setdefault(prompt.id, (row.place, digest))
    if place == row.place:
        reading.prompts.append(prompt)
    elif digest == first:
        reading.repeated += 1
    else:
        raise row.error("id", f"{prompt.id!r} was used before for another question, at {place}; ids must differ")


def _skip(row: Row, error: UserError, reading: Reading) -> None:
    name = str(error).removeprefix(f"{row.place}: ").partition(":")[0]
    reading.skipped[name] += 1
    if len(reading.examples) < EXAMPLES:
        reading.examples.append(str(error))
