"""The laptop task's answers: compared as they stand, in this process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from nemo_forking.rewards.verdict import Graded, Grader, Item, compared
from nemo_forking.tasks import many_ways


class ManyWaysGrader(Grader):
    """Reads the answer off a completion's second and last line."""

    def stream(self, items: Sequence[Item]) -> Iterator[tuple[str, Graded]]:
        for item in items:
            yield item.id, compared(many_ways.answer(item.completion), item.gold)

    def describe(self) -> dict[str, Any]:
        return {"name": "many_ways"}
