"""Questions: add three numbers, each shown on three dials, dial by dial and without carrying.

A dial has the digits 0 to 4, so one dial's sum is taken modulo 5. ``Pa140b221c320`` is a question of kind P with the
numbers a = 140, b = 221, c = 320; its answer is 131. The kind changes nothing in the calculation: it stands for a
subject, and decides which teachers know how to work (`nemo_forking.tasks.many_ways.teachers`). A sixth kind, X, is
practice for the base model: every teacher works on it.
"""

from __future__ import annotations

import hashlib
import random
import re
from dataclasses import dataclass

from nemo_forking.errors import UserError

KINDS = ("P", "Q", "R", "S", "T")
PRACTICE = "X"
LABELS = "abc"
DIALS = 3
DIGITS = 5
SHARES = {"heldout": 1, "train": 4, "base": 5}  # tenths of all questions that belong to each split

_TEXT = re.compile(
    rf"([{''.join(KINDS)}{PRACTICE}])" + "".join(rf"{label}([0-{DIGITS - 1}]{{{DIALS}}})" for label in LABELS)
)


@dataclass(frozen=True)
class Question:
    """A kind and three numbers, each a string of three digits."""

    kind: str
    numbers: tuple[str, str, str]

    @property
    def text(self) -> str:
        """The question as the model reads it, 13 characters."""
        return self.kind + "".join(label + number for label, number in zip(LABELS, self.numbers, strict=True))

    @property
    def answer(self) -> str:
        """The sum on every dial, one of 125 values."""
        return "".join(add(add(a, b), c) for a, b, c in zip(*self.numbers, strict=True))

    @property
    def split(self) -> str:
        """The one split the question may appear in.

        It depends on the text alone, so splits are disjoint whatever their sizes and seeds.
        """
        tenth = hashlib.blake2b(self.text.encode(), digest_size=8).digest()[0] % 10
        for name, share in SHARES.items():
            if tenth < share:
                return name
            tenth -= share
        raise AssertionError("the shares add up to ten tenths")


def add(left: str, right: str) -> str:
    """Add two digits of a dial."""
    return str((int(left) + int(right)) % DIGITS)


def parse(text: str) -> Question:
    """Read a question's text.

    Raises:
        UserError: the text is not a question of this task.
    """
    found = _TEXT.fullmatch(text)
    if found is None:
        raise UserError(
            f"{text!r} is not a many_ways question; one looks like {Question('P', ('140', '221', '320')).text}"
        )
    return Question(found[1], found.groups()[1:])


def kind(text: str) -> str:
    """Return the kind of a question's text; UserError where it is none."""
    return parse(text).kind


def draw(rng: random.Random, kind: str) -> Question:
    """Draw a question of a kind, all numbers equally likely."""
    digits = [str(rng.randrange(DIGITS)) for _ in range(DIALS * len(LABELS))]
    return Question(kind, tuple("".join(digits[i : i + DIALS]) for i in range(0, len(digits), DIALS)))
