"""Rows to micro-batches: packed or padded, sliced for context parallelism. Which row goes where is data/packing.py's.

Shape letters: R rows, B batch, T time, L label positions.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from nemo_forking.data.packing import Deal, Document, Layout, Row, deal, own_chunks
from nemo_forking.data.sharing import shared

__all__ = ["Deal", "Document", "Layout", "MicroBatch", "Row", "build", "deal"]


@dataclass(frozen=True)
class MicroBatch:
    """One micro-batch on one rank, sliced for its context-parallel rank."""

    tokens: Tensor  # [B, T] int64
    positions: Tensor  # [T] int64: place inside the document; a branch goes on from its trunk
    places: Tensor  # [L] int64: flat place t * B + b of the hidden state that predicts a label
    labels: Tensor  # [L] int64
    weights: Tensor  # [L] float32
    row: Tensor  # [L] int64: which of the names below the label counts under
    rows: tuple[int, ...]  # the rows' names (Row.names)
    documents: tuple[Document, ...]  # of the pack, in order; empty when padded

    def to(self, device) -> "MicroBatch":
        """The same on another device."""
        moved = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{k: v.to(device, non_blocking=True) for k, v in moved.items() if isinstance(v, Tensor)})


def build(rows: Sequence[Row], plan: Deal, layout: Layout) -> Iterator[MicroBatch]:
    """This rank's micro-batches, one after the other."""
    rank = layout.data_rank
    for members, time in zip(plan.micro_batches[rank], plan.times[rank], strict=True):
        chosen = [rows[i] for i in members]
        yield _packed(chosen, time, layout) if layout.packing else _padded(chosen, plan.batch, time, layout)


def _packed(rows: list[Row], time: int, layout: Layout) -> MicroBatch:
    sheet, documents, start = _Sheet(1, time), [], 0
    for members, document in shared(rows, layout):
        trunk = document.trunk if document.branches else 0
        sheet.tokens[0, start : start + trunk] = members[0].ids[:trunk]
        start += trunk
        for row, length in zip(members, document.branches or (document.trunk,), strict=True):
            sheet.write(row, 0, start, read=trunk)
            start += length
        documents.append(document)
    documents += [Document(time - start)] * (start < time)  # the rest is a document of padding
    lengths, firsts = np.array([piece for d in documents for piece in d.pieces]).T
    begins = np.cumsum(lengths) - lengths
    positions = np.concatenate([first + np.arange(n) for n, first in zip(lengths, firsts, strict=True)])
    keep = np.concatenate([begin + _own_part(n, layout) for n, begin in zip(lengths, begins, strict=True)])
    return sheet.micro_batch(positions, keep, tuple(documents))


def _padded(rows: list[Row], batch: int, time: int, layout: Layout) -> MicroBatch:
    sheet = _Sheet(batch, time)
    for b, row in enumerate(rows):
        sheet.write(row, b, 0)
    return sheet.micro_batch(np.arange(time), _own_part(time, layout), ())


class _Sheet:
    """The tokens of every place [B, T], and the predictions asked for, before slicing."""

    def __init__(self, batch: int, time: int):
        self.tokens = np.zeros((batch, time), dtype=np.int64)
        self.asked: list[np.ndarray] = [np.empty((4, 0), dtype=np.int64)]  # time, batch, label, owner
        self.weights: list[np.ndarray] = [np.empty(0, dtype=np.float32)]
        self.names: list[int] = []

    def write(self, row: Row, b: int, start: int, read: int = 0) -> None:
        """A row from its token `read` on, at place `start`: what comes before stands elsewhere."""
        self.tokens[b, start : start + row.length - read] = row.ids[read:-1]
        begin = start - read
        if row.choices:
            labels = np.array(row.choices, dtype=np.int64)
            time, owner = np.full(len(labels), begin + row.length - 1), np.arange(len(labels))
        else:
            labels = row.ids[row.first :]
            time, owner = np.arange(begin + row.first - 1, begin + row.length), np.zeros(len(labels), dtype=np.int64)
        self.asked.append(np.stack([time, np.full_like(time, b), labels, owner + len(self.names)]))
        self.weights.append(np.full(len(labels), row.weight, dtype=np.float32))
        self.names += row.names

    def micro_batch(self, positions, keep, documents) -> MicroBatch:
        batch, times = self.tokens.shape
        new_time = np.full(times, -1)
        new_time[keep] = np.arange(len(keep))
        time, b, labels, owner = np.concatenate(self.asked, axis=1)
        time = new_time[time]
        own = np.flatnonzero(time >= 0)  # the others lie on other context ranks
        own = own[np.lexsort((b[own], time[own]))]  # time-major, as hidden states lie
        return MicroBatch(
            tokens=torch.from_numpy(self.tokens[:, keep]),
            positions=torch.from_numpy(positions[keep]),
            places=torch.from_numpy(time[own] * batch + b[own]),
            labels=torch.from_numpy(labels[own]),
            weights=torch.from_numpy(np.concatenate(self.weights)[own]),
            row=torch.from_numpy(owner[own]),
            rows=tuple(self.names),
            documents=documents,
        )


def _own_part(length: int, layout: Layout) -> np.ndarray:
    """This context rank's places in a document."""
    if layout.context_ranks == 1:
        return np.arange(length)
    chunks = np.arange(length).reshape(2 * layout.context_ranks, -1)
    return chunks[[*own_chunks(layout.context_ranks, layout.context_rank)]].ravel()
