"""Rows, and which micro-batch of which data-parallel rank each lies in: without torch, so that a plan can ask too.

Everything here is a pure function of lengths that every rank knows, so no rank has to be told its share. Shape
letters: B batch, T time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nemo_forking.errors import UserError

if TYPE_CHECKING:
    from nemo_forking.config.schema import BatchConfig, LayoutConfig


@dataclass(frozen=True)
class Row:
    """One sequence `prompt + tag + trace`, of which tokens `ids[first:]` are predicted and counted.

    With `choices` its last place is a fork: each of these ids is predicted there, from one hidden state, and counts
    under a name of its own.
    """

    ids: np.ndarray  # int64
    first: int  # index of the first counted token; at least 1, and the last one before a fork
    weight: float = 1.0  # of every counted token in the loss
    index: int = 0  # the caller's name for the row
    choices: tuple[int, ...] = ()  # what may stand in the place of ids[-1]

    @property
    def length(self) -> int:
        """Tokens the model reads: all but the last, which is only predicted."""
        return len(self.ids) - 1

    @property
    def counted(self) -> int:
        """Tokens predicted."""
        return len(self.choices) or len(self.ids) - self.first

    @property
    def names(self) -> tuple[int, ...]:
        """What its predictions are added up under: its index, or index * N + i for the i-th of N choices."""
        count = len(self.choices)
        return tuple(range(self.index * count, (self.index + 1) * count)) or (self.index,)


@dataclass(frozen=True)
class Document:
    """A stretch of a pack whose tokens see one another: a trunk, read causally, then branches one after the other.

    A branch sees the trunk and, causally, itself. Lengths are over all context ranks, multiples of
    Layout.row_multiple. A plain row is a trunk without branches.
    """

    trunk: int
    branches: tuple[int, ...] = ()

    @property
    def length(self) -> int:
        """Tokens in the pack."""
        return self.trunk + sum(self.branches)


@dataclass(frozen=True)
class Layout:
    """How a pass is laid out; the same on every rank but for the two rank numbers."""

    packing: bool
    tokens: int  # capacity of a packed micro-batch
    micro_batch_size: int  # rows of a padded micro-batch
    data_ranks: int = 1
    data_rank: int = 0
    context_ranks: int = 1
    context_rank: int = 0
    multiple: int = 1  # T is a multiple of this (sequence parallelism, kernels' favourite sizes)
    group: int = 1  # micro-batches per rank are a multiple of this (interleaved pipeline)

    @property
    def row_multiple(self) -> int:
        """What a row's length is rounded up to, so that context parallelism cuts it into equal chunks."""
        return 2 * self.context_ranks if self.context_ranks > 1 else 1


def pass_layout(
    batch: BatchConfig,
    layout: LayoutConfig,
    *,
    without_gradient: bool = False,
    data_rank: int = 0,
    context_rank: int = 0,
) -> Layout:
    """The layout of a training pass, or of one that keeps no activations and takes larger micro-batches."""
    sequence = layout.tensor if layout.sequence_parallel else 1
    return Layout(
        packing=batch.packing,
        tokens=batch.match_tokens if without_gradient else batch.tokens,
        micro_batch_size=batch.match_micro_batch_size if without_gradient else batch.micro_batch_size,
        data_ranks=layout.data,
        data_rank=data_rank,
        context_ranks=layout.context,
        context_rank=context_rank,
        multiple=sequence * layout.context * fp8_multiple(layout.fp8, 2 if layout.context > 1 else 1),
        group=layout.pipeline if layout.virtual_pipeline else 1,
    )


def fp8_multiple(recipe: str | None, otherwise: int = 1) -> int:
    """What every rank's tokens are a multiple of, so that products over them can be 8-bit (mxfp8: blocks of 32)."""
    return {None: otherwise, "mxfp8": 32}.get(recipe, 16)


@dataclass(frozen=True)
class Deal:
    """Which rows lie in which micro-batch of which data-parallel rank, and the one shape of all of them."""

    micro_batches: list[list[list[int]]]  # [data rank][micro-batch][row number]; an empty list is a dummy
    batch: int  # B
    time: int  # T over all context ranks

    @property
    def rows_max(self) -> int:
        """Most rows any rank holds."""
        return max(sum(map(len, rank)) for rank in self.micro_batches)


def deal(lengths: Sequence[int], layout: Layout) -> Deal:
    """Deal rows of these lengths to ranks: the same number of micro-batches each, near-equal tokens.

    Packed: longest row first, each into the emptiest bin with room, with as few bins as hold them all. Padded: rows
    of like length share a micro-batch. Raises UserError when a row is longer than a packed micro-batch.
    """
    lengths = np.array([round_up(n, layout.row_multiple) for n in lengths], dtype=np.int64)
    order = np.argsort(-lengths, kind="stable")
    step = layout.data_ranks * layout.group
    if layout.packing:
        bins = _pack(lengths, order, layout.tokens, step)
    else:
        size = layout.micro_batch_size
        bins = [order[i : i + size].tolist() for i in range(0, len(order), size)]
        bins += [[] for _ in range(-len(bins) % step)]
    fill = [int(lengths[b].sum()) if layout.packing else int(lengths[b].max(initial=0)) for b in bins]
    time = round_up(max(max(fill), 1), np.lcm(layout.multiple, layout.row_multiple))
    ranks: list[list[list[int]]] = [[] for _ in range(layout.data_ranks)]
    for place, b in enumerate(sorted(range(len(bins)), key=lambda b: -fill[b])):
        lap, seat = divmod(place, layout.data_ranks)  # there and back again, so that no rank always gets the fuller
        ranks[seat if lap % 2 == 0 else layout.data_ranks - 1 - seat].append(bins[b])
    return Deal(ranks, 1 if layout.packing else layout.micro_batch_size, int(time))


def _pack(lengths: np.ndarray, order: np.ndarray, capacity: int, step: int) -> list[list[int]]:
    if lengths.max() > capacity:
        raise UserError(
            f"a row of {lengths.max()} tokens does not fit a packed micro-batch of {capacity}: raise batch.tokens "
            "(or batch.match_tokens), or lower data.max_length"
        )
    count = round_up(int(np.ceil(lengths.sum() / capacity)), step)
    while (bins := _try_pack(lengths, order, capacity, count)) is None:
        count += step
    return bins


def _try_pack(lengths: np.ndarray, order: np.ndarray, capacity: int, count: int) -> list[list[int]] | None:
    bins, fill = [[] for _ in range(count)], np.zeros(count, dtype=np.int64)
    for row in order:
        emptiest = int(fill.argmin())
        if fill[emptiest] + lengths[row] > capacity:
            return None
        bins[emptiest].append(int(row))
        fill[emptiest] += lengths[row]
    return bins


def round_up(n: int, multiple: int) -> int:
    return -(-int(n) // int(multiple)) * int(multiple)
