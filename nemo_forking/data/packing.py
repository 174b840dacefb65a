"""Rows, and which micro-batch of which data-parallel rank each lies in: without torch, so that a plan can ask too.

Everything here is a pure function of lengths that every rank knows, so no rank has to be told its share. A cost is
counted in tokens: what the linear layers do for one is 1. Shape letters: B batch, T time.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence
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
    prompt: int = 0  # first ids that are the prompt of its question, at most `first` of them
    group: int = -1  # the question: rows of one group begin with the same prompt and may share it; -1 shares nothing

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

    @property
    def pieces(self) -> list[tuple[int, int]]:
        """(length, position of the first token) of the trunk and of every branch."""
        return [(self.trunk, 0), *((n, self.trunk) for n in self.branches)]

    @property
    def area(self) -> int:
        """Twice the (query, key) pairs of causal attention: the square of the length, but that branches are apart."""
        return self.trunk**2 + sum(n * (2 * self.trunk + n) for n in self.branches)


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
    one_time: bool = False  # a rank's micro-batches have one T: pipeline stages know the shape they hand over
    crossover: float = math.inf  # length of a row at which attention costs as much as the linears
    share: bool = False  # rows of one group in a pack share their prompt

    @property
    def row_multiple(self) -> int:
        """What a row's length is rounded up to, so that context parallelism cuts it into equal chunks."""
        return 2 * self.context_ranks if self.context_ranks > 1 else 1

    def time(self, tokens: int) -> int:
        """T of a micro-batch that holds so many."""
        return round_up(max(tokens, 1), np.lcm(self.multiple, self.row_multiple))


def pass_layout(
    batch: BatchConfig,
    layout: LayoutConfig,
    crossover: float = math.inf,
    *,
    without_gradient: bool = False,
    data_rank: int = 0,
    context_rank: int = 0,
) -> Layout:
    """The layout of a training pass, or of one that keeps no activations and takes larger micro-batches.

    `crossover` is the model's, `plan.flops.crossover`.
    """
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
        one_time=layout.pipeline > 1,
        crossover=crossover,
        share=batch.share_prompts and batch.packing and without_gradient,
    )


def fp8_multiple(recipe: str | None, otherwise: int = 1) -> int:
    """What every rank's tokens are a multiple of, so that products over them can be 8-bit (mxfp8: blocks of 32)."""
    return {None: otherwise, "mxfp8": 32}.get(recipe, 16)


@dataclass(frozen=True)
class Deal:
    """Which rows lie in which micro-batch of which data-parallel rank, and their shapes."""

    micro_batches: list[list[list[int]]]  # [data rank][micro-batch][row number]; an empty list is a dummy
    times: list[list[int]]  # T of each over all context ranks
    costs: list[list[float]]  # of each, padding included
    batch: int  # B
    spared: list[int]  # lengths of shared prompts that rows by themselves would read once more, one for every time

    @property
    def time(self) -> int:
        """The greatest T."""
        return max(map(max, self.times))

    @property
    def rows_max(self) -> int:
        """Most rows any rank holds."""
        return max(sum(map(len, rank)) for rank in self.micro_batches)

    @property
    def imbalance(self) -> float:
        """The dearest data-parallel rank's cost over the mean, less 1: the others wait for it."""
        rank_costs = [sum(rank) for rank in self.costs]
        return max(0.0, max(rank_costs) * len(rank_costs) / sum(rank_costs) - 1)


def deal(lengths: Sequence[int], layout: Layout) -> Deal:
    """Deal rows of these lengths to ranks: the same number of micro-batches each, near-equal cost.

    Packed: longest row first, each to the cheapest rank with room, there into the emptiest pack; as few packs as hold
    them all. Padded: rows of like length share a micro-batch, and the dearest goes to the cheapest rank. Raises
    UserError when a row is longer than a packed micro-batch.
    """
    lengths = np.array([round_up(n, layout.row_multiple) for n in lengths], dtype=np.int64)
    order = np.argsort(-lengths, kind="stable")
    if layout.packing:
        return describe(_pack(lengths, order, layout), lambda pack: [Document(int(lengths[i])) for i in pack], layout)
    size = layout.micro_batch_size
    bins = [order[i : i + size].tolist() for i in range(0, len(order), size)]
    bins += [[] for _ in range(-len(bins) % (layout.data_ranks * layout.group))]
    times = [layout.time(int(lengths[b].max(initial=0))) for b in bins]
    ranks = to_ranks(bins, [t + t * t / layout.crossover for t in times], layout.data_ranks)
    return describe(ranks, lambda bin: [Document(int(lengths[bin].max(initial=0)))], layout)


def describe(
    ranks: list[list[list[int]]], documents: Callable[[list[int]], Sequence[Document]], layout: Layout
) -> Deal:
    """The deal that holds these rows, each rank's fullest micro-batch first: later ones fit the memory it has taken.

    `documents` says what the rows of a pack make; of a padded micro-batch, the longest row.
    """
    micro_batches, times, costs, spared = [], [], [], []
    for rank in ranks:
        held = [(rows, documents(rows)) for rows in rank]
        held.sort(key=lambda rows_and_documents: -_tokens(rows_and_documents[1]))
        fills = [_tokens(held[0][1] if layout.one_time else found) for _, found in held]
        micro_batches.append([rows for rows, _ in held])
        times.append([layout.time(fill) for fill in fills])
        costs.append([_cost(found, t, layout) for (_, found), t in zip(held, times[-1], strict=True)])
        spared += [d.trunk for _, found in held for d in found for _ in d.branches[1:]]
    return Deal(micro_batches, times, costs, 1 if layout.packing else layout.micro_batch_size, spared)


def to_ranks(bins: Sequence[list[int]], costs: Sequence[float], ranks: int) -> list[list[list[int]]]:
    """As many bins to every rank, the dearest first, each to the cheapest rank that lacks one."""
    taken, spent = [[] for _ in range(ranks)], [0.0] * ranks
    for b in sorted(range(len(bins)), key=lambda b: -costs[b]):
        rank = min((r for r in range(ranks) if len(taken[r]) < len(bins) // ranks), key=lambda r: spent[r])
        taken[rank].append(bins[b])
        spent[rank] += costs[b]
    return taken


def check_fits(longest: int, layout: Layout) -> None:
    """Raises UserError where a row of so many tokens, rounded up, is longer than a pack."""
    if longest > layout.tokens:
        raise UserError(
            f"a row of {longest} tokens does not fit a packed micro-batch of {layout.tokens}: raise batch.tokens "
            "(or batch.match_tokens), or lower data.max_length"
        )


def _cost(documents: Sequence[Document], time: int, layout: Layout) -> float:
    """What a micro-batch of `time` tokens costs; what its documents leave of a pack is a document of padding."""
    if not layout.packing:
        return layout.micro_batch_size * (time + time * time / layout.crossover)
    padding = time - _tokens(documents)
    return time + (sum(d.area for d in documents) + padding**2) / layout.crossover


def _tokens(documents: Sequence[Document]) -> int:
    return sum(d.length for d in documents)


def _pack(lengths: np.ndarray, order: np.ndarray, layout: Layout) -> list[list[list[int]]]:
    check_fits(int(lengths.max()), layout)
    longest = np.arange(1, len(lengths) + 1) / (layout.tokens // lengths[order])  # packs that the k longest rows need
    packs = max(lengths.sum() / layout.tokens, longest.max())
    count = round_up(math.ceil(packs / layout.data_ranks), layout.group)
    while True:
        for by_cost in (True, False):  # rows dealt by cost alone may leave no room where even packs would
            if ranks := _try_pack(lengths.tolist(), order.tolist(), count, by_cost, layout):
                return ranks
        count += layout.group


def _try_pack(
    lengths: list[int], order: list[int], count: int, by_cost: bool, layout: Layout
) -> list[list[list[int]]] | None:
    """Rows in `count` packs a rank: each to the cheapest rank with room, or to whichever has the emptiest pack."""
    ranks = [[[] for _ in range(count)] for _ in range(layout.data_ranks)]
    fills = [[(0, pack) for pack in range(count)] for _ in ranks]  # a heap each: the emptiest pack first
    spent = [0.0] * len(ranks)
    for row in order:
        length = lengths[row]
        room = [rank for rank, heap in enumerate(fills) if heap[0][0] + length <= layout.tokens]
        if not room:
            return None
        rank = min(room, key=lambda rank: spent[rank] if by_cost else fills[rank][0][0])
        fill, pack = fills[rank][0]
        heapq.heapreplace(fills[rank], (fill + length, pack))
        ranks[rank][pack].append(row)
        spent[rank] += length + length * length / layout.crossover
    return ranks


def own_chunks(ranks: int, rank: int) -> tuple[int, int]:
    """Which of a document's 2 * `ranks` chunks a context rank has: zig-zag, so that causal work is even."""
    return rank, 2 * ranks - 1 - rank


def round_up(n: int, multiple: int) -> int:
    """The next multiple."""
    return -(-int(n) // int(multiple)) * int(multiple)
