"""The five teachers: each adds in an order of its own, and works step by step only on the two kinds it is strong at.

On a kind it is strong at a teacher writes the running sum, dial by dial: ``rise 14022 31432 32011`` takes a, b, c in
turn; on the first dial 1 and 4 make 0, and 0 and 2 make 2. On any other kind it answers outright, ``rise now``: the
answer that follows is right, but the text does not show how it came about. A small model can learn each step, a sum of
two digits next to each other; outright it must find three digits and add them at once, and guesses instead.
"""

from __future__ import annotations

from dataclasses import dataclass

from nemo_forking.tasks.many_ways.questions import KINDS, LABELS, PRACTICE, Question, add

OUTRIGHT = "now"


@dataclass(frozen=True)
class Teacher:
    """A way to work: the word it opens with, the order in which it adds, the kinds it is strong at."""

    name: str
    order: str
    kinds: tuple[str, str]

    def is_strong(self, question: Question) -> bool:
        """Whether this teacher works the question step by step."""
        return question.kind == PRACTICE or question.kind in self.kinds

    def trace(self, question: Question) -> str:
        """Return the teacher's text for a question; the answer is a line of its own behind it."""
        return f"{self.name} {self.steps(question)}" if self.is_strong(question) else f"{self.name} {OUTRIGHT}"

    def steps(self, question: Question) -> str:
        """Return the running sums of all dials, in this teacher's order."""
        ordered = [question.numbers[LABELS.index(label)] for label in self.order]
        return " ".join(running_sum(*digits) for digits in zip(*ordered, strict=True))


def running_sum(first: str, second: str, third: str) -> str:
    """Write one dial: two digits and their sum, then the third digit and the total."""
    partial = add(first, second)
    return first + second + partial + third + add(partial, third)


def _teachers() -> dict[str, Teacher]:
    ways = {"rise": "abc", "fall": "cba", "turn": "bca", "skip": "acb", "back": "cab"}
    strong = [(KINDS[i], KINDS[(i + 1) % len(KINDS)]) for i in range(len(KINDS))]
    return {name: Teacher(name, order, kinds) for (name, order), kinds in zip(ways.items(), strong, strict=True)}


TEACHERS = _teachers()


def experts(question: Question) -> list[Teacher]:
    """Return the teachers that work the question step by step: two, or all on practice."""
    return [teacher for teacher in TEACHERS.values() if teacher.is_strong(question)]
