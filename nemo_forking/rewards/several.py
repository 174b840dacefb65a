"""One grader over questions of several kinds of answer, each graded by its kind's own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from nemo_forking.rewards.verdict import Graded, Grader, Item

if TYPE_CHECKING:
    from nemo_forking.config.schema import GradingConfig

SANDBOX = "sandbox"  # of the code grader's description: the machine's, on which no verdict depends


def open_graders(answers: Mapping[str, str], grading: GradingConfig) -> Grader:
    """The grader of questions whose kinds of answer differ; where they are all of one kind, that kind's itself.

    Args:
        answers: question id -> kind of answer, as `open_grader` takes it.
        grading: limits and workers of every grader.

    Raises:
        UserError: no such kind of answer, or code cannot be run safely on this machine; graders opened before are
            closed.
        ValueError: there are no questions.
    """
    from nemo_forking.rewards import open_grader

    kinds = sorted(set(answers.values()))
    if not kinds:
        raise ValueError("no questions to grade")
    if len(kinds) == 1:
        return open_grader(kinds[0], grading)
    with ExitStack() as opened:
        graders = {kind: opened.enter_context(open_grader(kind, grading)) for kind in kinds}
        opened.pop_all()
    return SeveralGrader(dict(answers), graders)


class SeveralGrader(Grader):
    """Hands every item to the grader of its question's kind, one kind after the other: each pool takes all CPUs.

    Args:
        answers: question id -> kind of answer.
        graders: kind of answer -> its grader; closed with this one.
    """

    def __init__(self, answers: Mapping[str, str], graders: Mapping[str, Grader]) -> None:
        self.answers, self.graders = answers, graders

    def stream(self, items: Sequence[Item]) -> Iterator[tuple[str, Graded]]:
        """As `Grader.stream`; items name their questions.

        Raises:
            KeyError: a question of unknown kind, before anything is graded.
        """
        of_kind: dict[str, list[Item]] = {kind: [] for kind in self.graders}
        for item in items:
            of_kind[self.answers[item.question]].append(item)
        for kind, grader in self.graders.items():
            yield from grader.stream(of_kind[kind])

    def describe(self) -> dict[str, Any]:
        """Every grader's description under its kind; the sandbox stands where the code grader alone would put it."""
        described = {kind: grader.describe() for kind, grader in self.graders.items()}
        machines = [each.pop(SANDBOX) for each in described.values() if SANDBOX in each]
        return {"name": "several", **described} | ({SANDBOX: machines[0]} if machines else {})

    def close(self) -> None:
        with ExitStack() as closing:  # also those after one that fails
            for grader in self.graders.values():
                closing.callback(grader.close)
