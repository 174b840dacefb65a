"""What every RL data set is turned into."""

from __future__ import annotations

from dataclasses import dataclass

from nemo_forking.evaluation.benchmarks.problem import Problem

ANSWERS = ("math", "code", "many_ways")


@dataclass(frozen=True)
class Prompt(Problem):
    """A question of RL: a benchmark's problem that names its own grader, since one data set may hold several kinds.

    Attributes:
        answer: kind of answer, one of `ANSWERS`, which chooses the grader.
    """

    answer: str = "math"


class LeftOut(Exception):
    """A whole row that is of no use here (another language, a task without a grader); its text is the reason."""
