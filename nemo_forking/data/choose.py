"""Which M of a question's traces are used, by a rule that depends on the seed and the data alone."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence


class Chooser:
    """Chooses at most `count` traces of each question; the chosen ones keep the source's order.

    Rules: `order` takes the first ones. `random` takes a uniform draw that depends on (seed, question id) only.
    `balanced` takes, one after the other, a trace of the teacher chosen least often so far (a teacher new to the
    question before one that was chosen for it already; ties by the same draw as `random`), so that all teachers are
    used about equally often where the data allow it; it depends on the questions before.
    """

    def __init__(self, rule: str, count: int, seed: int) -> None:
        self._rule, self._count, self._seed = rule, count, seed
        self.used: Counter[str] = Counter()  # teacher -> traces chosen so far

    def choose(self, question_id: str, teachers: Sequence[str]) -> list[int]:
        """Return the indices, rising, of the chosen ones among traces written by `teachers`."""
        left = list(range(len(teachers)))
        if self._rule != "order":
            left.sort(key=lambda index: self._draw(question_id, index))
        if self._rule == "balanced":
            left = self._balanced(left, teachers)
        chosen = sorted(left[: self._count])
        self.used.update(teachers[index] for index in chosen)
        return chosen

    def _balanced(self, drawn: list[int], teachers: Sequence[str]) -> list[int]:
        here: Counter[str] = Counter()
        chosen: list[int] = []
        while drawn and len(chosen) < self._count:
            best = min(drawn, key=lambda index: (here[teachers[index]], self.used[teachers[index]]))
            drawn.remove(best)
            chosen.append(best)
            here[teachers[best]] += 1
        return chosen

    def _draw(self, question_id: str, index: int) -> bytes:
        return hashlib.blake2b(f"{self._seed} {index} {question_id}".encode(), digest_size=8).digest()
