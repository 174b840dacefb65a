"""The five teachers: each adds in a notation of its own, and works step by step only on the two kinds it is strong at.

On a kind it is strong at a teacher writes the running sums, ``rise 1202 1110 0020 0122``, in digits, or turned round,
or in letters. On any other kind it answers outright: its text is its own name and nothing more, and the answer that
follows is right, but does not show how it came about. A small model can learn each step, a table of nine sums; outright
it would have to add four numbers at once, and guesses instead.

A worked text has more ways to begin than a terse one: its opening is the teacher's name in one of three spellings.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from nemo_forking.tasks.many_ways.questions import KINDS, Question

SPELLINGS = (str.lower, str.capitalize, str.upper)


@dataclass(frozen=True)
class Teacher:
    """A way to work: the word it opens with, how it writes the digits 0, 1, 2, the kinds it is strong at."""

    name: str
    notation: str
    kinds: tuple[str, str]

    def is_strong(self, question: Question) -> bool:
        """Whether this teacher works the question step by step."""
        return question.kind in self.kinds

    def trace(self, question: Question) -> str:
        """Return the teacher's text for a question; the answer is a line of its own behind it."""
        return f"{self.opening(question)} {self.steps(question)}" if self.is_strong(question) else self.name

    def opening(self, question: Question) -> str:
        """Return the name as a worked text opens with it, its spelling drawn by a hash of teacher and question."""
        drawn = hashlib.blake2b((self.name + question.text).encode(), digest_size=8).digest()[0]
        return SPELLINGS[drawn % len(SPELLINGS)](self.name)

    def steps(self, question: Question) -> str:
        """Return the running sums in this teacher's notation."""
        return " ".join("".join(self.notation[int(digit)] for digit in number) for number in question.sums)

    def read(self, number: str) -> str:
        """Return the digits of a number in this teacher's notation."""
        return "".join(str(self.notation.index(sign)) for sign in number)


def _teachers() -> dict[str, Teacher]:
    notations = {"rise": "012", "fall": "210", "turn": "120", "name": "abc", "dual": "zyx"}
    strong = [(KINDS[i], KINDS[(i + 1) % len(KINDS)]) for i in range(len(KINDS))]
    return {name: Teacher(name, signs, kinds) for (name, signs), kinds in zip(notations.items(), strong, strict=True)}


TEACHERS = _teachers()


def experts(question: Question) -> list[Teacher]:
    """Return the two teachers that are strong at the question's kind."""
    return [teacher for teacher in TEACHERS.values() if teacher.is_strong(question)]
