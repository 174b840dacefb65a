"""Questions: add four numbers, each shown on four dials, dial by dial and without carrying.

A dial has the digits 0 to 2, so one dial's sum is taken modulo 3. ``P1202 0211 2210 0102`` is a question of kind P; its
answer is 0122. The kind changes nothing in the calculation: it stands for a subject, and decides which teachers know
how to work (`nemo_forking.tasks.many_ways.teachers`).
"""

from __future__ import annotations

import hashlib
import random
import re
from dataclasses import dataclass

from nemo_forking.errors import UserError

KINDS = ("P", "Q", "R", "S", "T")
NUMBERS = 4
DIALS = 4
DIGITS = 3
SHARES = {"heldout": 1, "train": 4, "base": 5}  # tenths of all questions that belong to each split

_NUMBER = f"[0-{DIGITS - 1}]{{{DIALS}}}"
_TEXT = re.compile(f"([{''.join(KINDS)}])({' '.join([_NUMBER] * NUMBERS)})")


@dataclass(frozen=True)
class Question:
    """A kind and four numbers, each a string of four digits."""

    kind: str
    numbers: tuple[str, ...]

    @property
    def text(self) -> str:
        """The question as the model reads it, 20 characters."""
        return self.kind + " ".join(self.numbers)

    @property
    def sums(self) -> list[str]:
        """The running sums: the first number, it and the second, and so on; the last one is the answer."""
        sums = [self.numbers[0]]
        for number in self.numbers[1:]:
            sums.append(add(sums[-1], number))
        return sums

    @property
    def answer(self) -> str:
        """The sum on every dial, one of 81 values."""
        return self.sums[-1]

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
    """Add two numbers dial by dial."""
    return "".join(str((int(a) + int(b)) % DIGITS) for a, b in zip(left, right, strict=True))


def parse(text: str) -> Question:
    """Read a question's text.

    Raises:
        UserError: the text is not a question of this task.
    """
    found = _TEXT.fullmatch(text)
    if found is None:
        example = Question("P", ("1202", "0211", "2210", "0102")).text
        raise UserError(f"{text!r} is not a many_ways question; one looks like {example}")
    return Question(found[1], tuple(found[2].split(" ")))


def kind(text: str) -> str:
    """Return the kind of a question's text; UserError where it is none."""
    return parse(text).kind


def draw(rng: random.Random, kind: str) -> Question:
    """Draw a question of a kind, all numbers equally likely."""
    return Question(kind, tuple("".join(str(rng.randrange(DIGITS)) for _ in range(DIALS)) for _ in range(NUMBERS)))
