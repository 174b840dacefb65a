"""Rows of a policy's passes: prompts up to the fork, and whole rollouts.

Shape letters: R rollouts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from nemo_forking.data.batches import Row
from nemo_forking.losses.normalise import completion_weight
from nemo_forking.tags import Tags


def fork_rows(prompts: Mapping[int, np.ndarray] | Sequence[np.ndarray], tags: Tags) -> list[Row]:
    """A row for every prompt: what stands before the fork is read, and every tag's id is predicted there.

    Args:
        prompts: ids by place in the batch, which is the row's name; or of the whole batch.
        tags: the tags.
    """
    before = np.asarray(tags.ids_NK[0][: tags.fork_offset + 1], dtype=np.int64)  # its last id gives way to the choices
    named = prompts.items() if isinstance(prompts, Mapping) else enumerate(prompts)
    return [
        Row(np.concatenate([prompt, before]), len(prompt) + tags.fork_offset, index=place, choices=tags.fork_ids)
        for place, prompt in named
    ]


def rollout_rows(
    prompts: Sequence[np.ndarray], tag_R: np.ndarray, completions: Sequence[Sequence[int]], tags: Tags
) -> list[Row]:
    """A row for every rollout: prompt, tag and completion, counted from the token at the fork on."""
    rows = []
    for place, (prompt, tag, completion) in enumerate(zip(prompts, tag_R, completions, strict=True)):
        ids = np.concatenate([prompt, tags.ids_NK[tag], completion]).astype(np.int64)
        rows.append(Row(ids, len(prompt) + tags.fork_offset, index=place))
    return rows


def weighted(rows: Sequence[Row], counts_R: np.ndarray, normalise: str) -> tuple[list[Row], float]:
    """The rows with the weights of their tokens, and the loss's denominator (`losses.normalise.completion_weight`).

    Args:
        rows: of the whole batch, in order.
        counts_R: False where a rollout is left out.
        normalise: how tokens add up, `policy.normalise`.
    """
    counted_R = np.array([row.counted for row in rows]) * np.asarray(counts_R, bool)
    weight_R, denominator = completion_weight(counted_R, normalise)
    return [replace(row, weight=float(weight)) for row, weight in zip(rows, weight_R, strict=True)], denominator
