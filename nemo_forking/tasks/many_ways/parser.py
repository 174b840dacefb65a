"""Reading a trace or a completion: whose way it goes, and what it answers.

A completion is the trace's text, a line end, and the answer; a bare trace has no answer.
"""

from __future__ import annotations

import re

from nemo_forking.tasks.many_ways.questions import DIALS, DIGITS, NUMBERS, Question
from nemo_forking.tasks.many_ways.teachers import TEACHERS

_ANSWER = re.compile(f"[0-{DIGITS - 1}]{{{DIALS}}}")


def route(text: str) -> str | None:
    """Return the name of the teacher whose way a text goes, or None where it is no teacher's.

    A worked text is a teacher's only when opening and notation are both that teacher's; right sums are not asked for.
    """
    opening, _, steps = text.split("\n", 1)[0].partition(" ")
    teacher = TEACHERS.get(opening.lower())
    if teacher is None:
        return None
    if not steps:
        return teacher.name if text.split("\n", 1)[0] == teacher.name else None
    number = f"[{teacher.notation}]{{{DIALS}}}"
    return teacher.name if re.fullmatch(" ".join([number] * NUMBERS), steps) else None


def answer(text: str) -> str | None:
    """Return the answer of a completion: the whole second and last line; None where there is no such line."""
    _, _, last = text.partition("\n")
    return last if _ANSWER.fullmatch(last) else None


def follows(text: str, question: Question) -> bool | None:
    """Whether a worked text's running sums are right, in its teacher's notation; None for any other text."""
    name, (_, _, steps) = route(text), text.split("\n", 1)[0].partition(" ")
    if name is None or not steps:
        return None
    return [TEACHERS[name].read(number) for number in steps.split(" ")] == question.sums
