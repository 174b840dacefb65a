"""Attention told by segments: runs of this rank's tokens, and the tokens of the whole pack that each run reads.

Every document, plain or with branches, whole or cut by context parallelism, is a list of them. A segment is causal,
aligned at the bottom right: its last query reads all its keys, each query before it one key less.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from nemo_forking.data.packing import Document, own_chunks


@dataclass(frozen=True)
class Segment:
    """A run of queries, and the runs of keys they read, the last of which ends with the queries themselves."""

    start: int  # the first query's place among this rank's tokens
    queries: int
    runs: tuple[tuple[int, int], ...]  # [begin, end) in the pack in natural order, before ranks cut it

    @property
    def keys(self) -> int:
        """Keys its last query reads."""
        return sum(end - begin for begin, end in self.runs)


def cut(documents: Sequence[Document], ranks: int = 1, rank: int = 0) -> list[Segment]:
    """The segments of one context-parallel rank, in the order of its tokens; together they are all of them.

    Trunk and branches are each cut zig-zag: of 2 * ranks chunks, a rank has the rank-th from either end.
    """
    segments, local = [], 0
    for begin, length, seen in _stretches(documents):
        chunk = length // (2 * ranks)
        pieces = [(length, length)] if ranks == 1 else [(chunk, (i + 1) * chunk) for i in own_chunks(ranks, rank)]
        for queries, end in pieces:
            segments.append(Segment(local, queries, (*seen, (begin, begin + end))))
            local += queries
    return segments


def gathered_order(documents: Sequence[Document], ranks: int) -> np.ndarray:
    """Where each token [tokens], in natural order, lies once the ranks' zig-zag slices are concatenated."""
    local = sum(d.length for d in documents) // ranks
    order = np.empty(local * ranks, dtype=np.int64)
    start = 0  # of the stretch in every rank's slice
    for begin, length, _ in _stretches(documents):
        chunks = order[begin : begin + length].reshape(2 * ranks, -1)
        for rank in range(ranks):
            own = rank * local + start + np.arange(length // ranks)
            chunks[[*own_chunks(ranks, rank)]] = own.reshape(2, -1)
        start += length // ranks
    return order


def _stretches(documents: Sequence[Document]) -> Iterator[tuple[int, int, tuple[tuple[int, int], ...]]]:
    """Begin and length of every trunk and branch that is not empty, and the runs it reads besides itself."""
    begin = 0
    for document in documents:
        trunk = ((begin, begin + document.trunk),) if document.trunk else ()
        for length, seen in ((document.trunk, ()), *((branch, trunk) for branch in document.branches)):
            if length:
                yield begin, length, seen
            begin += length
