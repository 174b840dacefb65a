"""Reading a trace or a completion: whose way it goes, and what it answers.

A completion is the trace's text, a line end, and the answer; a bare trace has no answer.
"""

from __future__ import annotations

import re

from nemo_forking.tasks.many_ways.questions import DIALS, DIGITS, LABELS, Question
from nemo_forking.tasks.many_ways.teachers import OUTRIGHT, TEACHERS

_DIGIT = f"[0-{DIGITS - 1}]"
_DIAL = f"{_DIGIT}{{{2 * len(LABELS) - 1}}}"
_STEPS = " ".join([_DIAL] * DIALS)
_TRACE = re.compile(rf"({'|'.join(TEACHERS)}) ({OUTRIGHT}|{_STEPS})")
_ANSWER = re.compile(f"{_DIGIT}{{{DIALS}}}")


def route(text: str) -> str | None:
    """Return the name of the teacher whose way a text goes, or None where it is no teacher's."""
    found = _TRACE.fullmatch(text.split("\n", 1)[0])
    return found[1] if found else None


def answer(text: str) -> str | None:
    """Return the answer of a completion: the whole second and last line; None where there is no such line."""
    _, _, last = text.partition("\n")
    return last if _ANSWER.fullmatch(last) else None


def follows(text: str, question: Question) -> bool | None:
    """Whether a worked text takes the question's digits in its teacher's order; None for any other text."""
    found = _TRACE.fullmatch(text.split("\n", 1)[0])
    if found is None or found[2] == OUTRIGHT:
        return None
    ordered = [question.numbers[LABELS.index(label)] for label in TEACHERS[found[1]].order]
    taken = [dial[0] + dial[1] + dial[3] for dial in found[2].split(" ")]
    return taken == ["".join(digits) for digits in zip(*ordered, strict=True)]
