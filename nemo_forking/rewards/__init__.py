"""Graders: what turns a completion and its problem's gold into a verdict. See docs/grading.md.

A grader's libraries are imported when it is opened.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nemo_forking.errors import UserError
from nemo_forking.rewards.several import open_graders
from nemo_forking.rewards.verdict import VERDICTS, Graded, Grader, Item, Verdict

if TYPE_CHECKING:
    from nemo_forking.config.schema import GradingConfig

__all__ = ["VERDICTS", "Graded", "Grader", "Item", "Verdict", "open_grader", "open_graders"]


def open_grader(answer: str, grading: GradingConfig) -> Grader:
    """The grader of a kind of answer: "math", "choice", "code" or "many_ways". Close it, or use it in a `with`.

    Raises:
        UserError: no such kind of answer, or code cannot be run safely on this machine.
    """
    match answer:
        case "math":
            from nemo_forking.rewards.math import MathGrader

            return MathGrader(grading)
        case "choice":
            from nemo_forking.rewards.choice import ChoiceGrader

            return ChoiceGrader()
        case "code":
            from nemo_forking.rewards.code import CodeGrader

            return CodeGrader(grading)
        case "many_ways":
            from nemo_forking.rewards.many_ways import ManyWaysGrader

            return ManyWaysGrader()
    raise UserError(f'answer={answer!r}: there are graders for "math", "choice", "code" and "many_ways"')
