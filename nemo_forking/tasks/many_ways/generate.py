"""Rows of the task in the project's JSONL schema (docs/data.md), made from a seed."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

from nemo_forking.errors import UserError
from nemo_forking.files import write_aside
from nemo_forking.tasks.many_ways.questions import KINDS, PRACTICE, SHARES, Question, draw
from nemo_forking.tasks.many_ways.teachers import TEACHERS, Teacher, experts

LIMIT = 200_000  # questions of one split; far fewer than there are, so that drawing new ones stays quick


def generate(count: int, seed: int, split: str = "train") -> Iterator[dict]:
    """Yield `count` different questions of a split, its kinds equally often, with their teachers' traces.

    All five teachers answer a question of `train` and `heldout`, the first four in random order. The last one is one of
    the two teachers strong at the question, drawn by chance: whoever trains on M = 4 traces takes the first four, with
    one worked answer among them, for worked traces are dear. In `base` that fifth trace is left out, and every other
    question is practice instead, with a worked trace of all five teachers in random order.

    Args:
        count: number of questions, at most 200,000.
        seed: the rows depend on (seed, split) alone, and the first ones not on `count`.
        split: "base", "train" or "heldout"; no question is in two of them, whatever the seeds.

    Raises:
        UserError: an unknown split or too many questions.
    """
    if split not in SHARES:
        raise UserError(f"the split is {split!r}; choose one of {', '.join(SHARES)}")
    if not 0 <= count <= LIMIT:
        raise UserError(f"{count} questions are asked of the split {split}; the task makes 0 to {LIMIT}")
    rng = random.Random(f"many_ways {split} {seed}")
    seen: set[Question] = set()
    for index in range(count):
        question = _new_question(rng, _kind(index, split), split, seen)
        teachers = _answering(rng, question, split)
        yield {
            "id": f"{split}-{seed}-{index:06d}",
            "question": question.text,
            "answer": question.answer,
            "traces": [
                {"teacher": teacher.name, "text": teacher.trace(question), "complete": True, "correct": True}
                for teacher in teachers
            ],
        }


def files(*, base: int, train: int, heldout: int, seed: int, rl: int = 0) -> dict[str, str]:
    """base.jsonl, train.jsonl and heldout.jsonl, of the given numbers of questions: name -> content.

    And rl.jsonl, where it is asked for: the questions of the split `train` that follow the ones in train.jsonl.
    """
    learning = list(generate(train + rl, seed, "train"))
    rows = {"base": generate(base, seed, "base"), "train": learning[:train]}
    rows |= {"heldout": generate(heldout, seed, "heldout")} | ({"rl": learning[train:]} if rl else {})
    return {f"{name}.jsonl": "".join(json.dumps(row) + "\n" for row in some) for name, some in rows.items()}


def write(folder: str | Path, **sizes: int) -> None:
    """Write `files(**sizes)` to `folder`."""
    for name, content in files(**sizes).items():
        write_aside(Path(folder) / name, content)


def _new_question(rng: random.Random, kind: str, split: str, seen: set[Question]) -> Question:
    while (question := draw(rng, kind)) in seen or question.split != split:
        pass
    seen.add(question)
    return question


def _kind(index: int, split: str) -> str:
    if split == "base" and index % 2:
        return PRACTICE
    return KINDS[index // (1 + (split == "base")) % len(KINDS)]


def _answering(rng: random.Random, question: Question, split: str) -> list[Teacher]:
    """The teachers whose traces the question has, in their order."""
    teachers = list(TEACHERS.values())
    if question.kind == PRACTICE:
        rng.shuffle(teachers)
        return teachers
    last = rng.choice(experts(question))
    teachers.remove(last)
    rng.shuffle(teachers)
    return teachers if split == "base" else [*teachers, last]
