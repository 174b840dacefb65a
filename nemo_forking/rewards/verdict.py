"""What grading a completion gives, and what every grader offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self, get_args

Verdict = Literal["correct", "wrong", "unparsable", "timed out"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)


@dataclass(frozen=True)
class Item:
    """One completion to grade."""

    id: str
    completion: str  # what the model wrote after prompt + tag, without the stop token
    gold: Any  # math, many_ways: answer text; choice: a letter; code: the tests (see rewards.code)
    question: str = ""  # its id, where questions of several kinds are graded together (rewards.several)


@dataclass(frozen=True)
class Graded:
    """The verdict on one completion."""

    verdict: Verdict
    answer: str | None  # canonical, for votes: equal answers have equal strings; None where nothing was extracted
    note: str = ""  # for readers: "test 3: wrong output", "the worker died", ...


def compared(answer: str | None, gold: str) -> Graded:
    """The verdict on an answer that is right where it equals `gold`; None where nothing was extracted."""
    if answer is None:
        return Graded("unparsable", None)
    return Graded("correct" if answer == gold else "wrong", answer)


class Grader(ABC):
    """Grades completions of one kind of answer; a context manager, which ends its workers."""

    @abstractmethod
    def stream(self, items: Sequence[Item]) -> Iterator[tuple[str, Graded]]:
        """Yields (item id, graded) as soon as each item is done, in any order."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Name, library versions and limits, for the provenance of a result."""

    def close(self) -> None:  # noqa: B027  (a grader without workers has nothing to end)
        """Ends workers, if there are any; the grader cannot be used afterwards."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
