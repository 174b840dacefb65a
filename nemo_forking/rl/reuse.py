"""Rewards that are used again: what tags earned a few batches ago (docs/gfpo.md).

GFPO moves the choice of a tag and hardly what follows it, so an earlier completion still says what its tag is worth.
There is no table to keep: it is what the batches' folders hold.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import NamedTuple

from nemo_forking.rl.batches import Batch


class Earlier(NamedTuple):
    """A question in an earlier batch."""

    batch: Batch
    row: int


def find_earlier(
    load: Callable[[int], Batch | None], number: int, reuse: int, questions: Collection[str]
) -> dict[str, Earlier]:
    """The latest rollouts of each question, where they were drawn in one of the `reuse` batches before batch `number`.

    A batch's copy of earlier rollouts tells when they were drawn, so each question is looked for once, and hardly
    further back than an epoch.

    Args:
        load: number of a batch -> the batch; None where there is none.
        number: of the batch about to be collected.
        reuse: `rollout.reuse`; 0 finds nothing.
        questions: ids.
    """
    oldest, found, sought = max(number - reuse, 0), {}, set(questions)
    for earlier in range(number - 1, oldest - 1, -1):
        if not sought:
            break
        if (batch := load(earlier)) is None:
            continue
        for row, question in enumerate(batch.questions):
            if question in sought:
                sought.remove(question)
                if batch.drawn_at_Q[row] >= oldest:
                    found[question] = Earlier(batch, row)
    return found
