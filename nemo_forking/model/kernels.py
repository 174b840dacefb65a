"""Attention over segments on torch alone: flash attention of variable lengths on a GPU, padded batches elsewhere.

Shape letters: T queries of this rank, S keys of the whole pack, H query heads, G key heads, D head size, B rows of a
padded batch. A kernel is prepared once for a micro-batch and called in every layer.
"""

import functools
import inspect
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nemo_forking.model.segments import Segment

BLOCK = 256  # queries of a long segment that are attended at a time, under one mask of BLOCK rows
CALL = 2**16  # pairs of query and key whose work is worth a call of their own


def prepare(segments: Sequence[Segment], order: np.ndarray | None, like: Tensor) -> "Varlen | Padded":
    """The kernel for queries of this device, type and head size.

    `order` is where the pack's tokens lie among the keys that will be given; None: in their natural order.
    """
    flash = like.is_cuda and like.dtype in (torch.bfloat16, torch.float16) and like.size(-1) in range(8, 257, 8)
    return Varlen(segments, order, like) if flash else Padded(segments, order, like)


class Varlen:
    """All segments in one call: their keys side by side, and where each segment's queries and keys end."""

    def __init__(self, segments: Sequence[Segment], order: np.ndarray | None, like: Tensor):
        queries, keys = [s.queries for s in segments], [s.keys for s in segments]
        self.keys = _index(_key_tokens(segments, order), like.device)
        ends = (np.cumsum([0, *counts]) for counts in (queries, keys))
        self.ends = tuple(torch.tensor(end, dtype=torch.int32, device=like.device) for end in ends)
        self.longest = max(queries), max(keys)

    def __call__(self, q_THD: Tensor, k_SGD: Tensor, v_SGD: Tensor, scale: float | None) -> Tensor:
        """Attention's output [T, H, D]."""
        k, v = (_pick(t, self.keys) for t in (k_SGD, v_SGD))
        return varlen_causal(q_THD, k, v, self.ends, self.longest, scale)


def varlen_causal(
    q: Tensor, k: Tensor, v: Tensor, ends: tuple[Tensor, Tensor], longest: tuple[int, int], scale: float | None
) -> Tensor:
    """Flash attention of variable lengths from torch, causal from the bottom right; CUDA, bf16 or fp16. As q.

    `ends` are 0 and the ends of every segment's queries and keys (int32), `longest` the most of each.
    """
    attend, takes = _varlen_attn()
    options = {"is_causal": True} if "is_causal" in takes else {"window_size": (-1, 0)}  # torch 2.10, later ones
    if "enable_gqa" in takes:
        options["enable_gqa"] = q.size(1) != k.size(1)
    if "scale" in takes:
        options["scale"] = scale
    elif scale is not None:  # the kernel multiplies by D ** -0.5
        q = q * (scale * q.size(-1) ** 0.5)
    return attend(q.contiguous(), k.contiguous(), v.contiguous(), *ends, *longest, **options)


@functools.cache
def _varlen_attn() -> tuple[Callable, frozenset[str]]:
    from torch.nn.attention.varlen import varlen_attn  # torch 2.10 has it first

    return varlen_attn, frozenset(inspect.signature(varlen_attn).parameters)


class Padded:
    """Segments in batches for scaled_dot_product_attention, in memory that grows with the tokens alone.

    A segment is a row of its keys, its queries in their own places at the row's end: causal masking then needs no
    mask, and keeps out a row's padding at its right. Rows of like length share a batch. A row's places without a
    query are work for nothing: where that is much, the segment is attended by itself, BLOCK queries at a time.
    """

    def __init__(self, segments: Sequence[Segment], order: np.ndarray | None, like: Tensor):
        rows: dict[int, list[Segment]] = {}
        alone = []
        for segment in segments:
            if segment.keys * (segment.keys / 2 - segment.queries) > CALL:
                alone.append(segment)
            else:  # by the power of two above the length, so that padding less than doubles a batch
                rows.setdefault(segment.keys.bit_length(), []).append(segment)
        mask = _sliding_mask(max((s.keys for s in alone), default=0), like)
        self.parts = [_Rows(group, order, like.device) for group in rows.values()]
        self.parts += [_Blocks(segment, order, mask) for segment in alone]
        arranged = [*sum(rows.values(), []), *alone]
        queries = _places((s.start for s in arranged), (s.queries for s in arranged))
        self.back = _index(np.argsort(queries), like.device)

    def __call__(self, q_THD: Tensor, k_SGD: Tensor, v_SGD: Tensor, scale: float | None) -> Tensor:
        """Attention's output [T, H, D]."""
        outs = [part(q_THD, k_SGD, v_SGD, scale) for part in self.parts]
        return _pick(torch.cat(outs) if len(outs) > 1 else outs[0], self.back)


class _Rows:
    """Segments of like length as one batch of rows, padded at the right."""

    def __init__(self, segments: list[Segment], order: np.ndarray | None, device: torch.device):
        self.shape = rows, longest = len(segments), max(s.keys for s in segments)
        queries, keys = [s.queries for s in segments], [s.keys for s in segments]
        self.queries = _index(_places((s.start for s in segments), queries), device)
        self.keys = _index(_key_tokens(segments, order), device)
        starts = np.arange(0, rows * longest, longest)
        self.key_slots = torch.from_numpy(_places(starts, keys)).to(device)
        plain = queries == keys
        self.query_slots = (
            self.key_slots if plain else torch.from_numpy(_places(starts + keys - queries, queries)).to(device)
        )

    def __call__(self, q_THD: Tensor, k_SGD: Tensor, v_SGD: Tensor, scale: float | None) -> Tensor:
        """The output at its queries, one segment after the other."""
        q_BHTD = self._pad(_pick(q_THD, self.queries), self.query_slots)
        k_BGTD, v_BGTD = (self._pad(_pick(t, self.keys), self.key_slots) for t in (k_SGD, v_SGD))
        out_BHTD = attend(q_BHTD, k_BGTD, v_BGTD, scale, is_causal=True)
        return out_BHTD.transpose(1, 2).flatten(0, 1).index_select(0, self.query_slots)

    def _pad(self, x: Tensor, slots: Tensor) -> Tensor:
        rows, longest = self.shape
        padded = x.new_zeros(rows * longest, *x.shape[1:]).index_copy(0, slots, x)
        return padded.view(rows, longest, *x.shape[1:]).transpose(1, 2)


class _Blocks:
    """One long segment, BLOCK queries at a time; all blocks look at one mask, each through a window of its own."""

    def __init__(self, segment: Segment, order: np.ndarray | None, mask: Tensor):
        self.segment, self.mask = segment, mask
        self.keys = torch.from_numpy(_key_tokens([segment], order)).to(mask.device)

    def __call__(self, q_THD: Tensor, k_SGD: Tensor, v_SGD: Tensor, scale: float | None) -> Tensor:
        """The output at its queries."""
        begin, count = self.segment.start, self.segment.queries
        k_BGTD, v_BGTD = (t.index_select(0, self.keys).transpose(0, 1)[None] for t in (k_SGD, v_SGD))
        outs, before = [], self.segment.keys - count  # keys before the block
        for q in q_THD[begin : begin + count].split(BLOCK):
            seen = before + len(q)
            left = self.mask.size(1) - BLOCK - before
            mask = self.mask[: len(q), left : left + seen]
            k, v = k_BGTD[:, :, :seen], v_BGTD[:, :, :seen]
            outs.append(attend(q.transpose(0, 1)[None], k, v, scale, attn_mask=mask)[0].transpose(0, 1))
            before = seen
        return torch.cat(outs)


def _sliding_mask(longest: int, like: Tensor) -> Tensor:
    """What is added to scores, [BLOCK, longest + BLOCK]: row i reads the first longest + i + 1 columns.

    Without its first n columns it is the mask of a block with longest - n keys before it.
    """
    mask = torch.full((BLOCK if longest else 0, longest + BLOCK), -torch.inf, dtype=like.dtype, device=like.device)
    return mask.triu_(longest + 1)


def attend(q_BHTD: Tensor, k_BGSD: Tensor, v_BGSD: Tensor, scale: float | None, **mask) -> Tensor:
    """Scaled dot-product attention of torch, with or without grouped queries. As q."""
    grouped = q_BHTD.size(1) != k_BGSD.size(1)
    return F.scaled_dot_product_attention(q_BHTD, k_BGSD, v_BGSD, scale=scale, enable_gqa=grouped, **mask)


def _key_tokens(segments: Sequence[Segment], order: np.ndarray | None) -> np.ndarray:
    """Where the keys of all segments lie, one segment after the other."""
    runs = [run for segment in segments for run in segment.runs]
    tokens = _places((begin for begin, _ in runs), (end - begin for begin, end in runs))
    return tokens if order is None else order[tokens]


def _places(starts: Iterable[int], lengths: Iterable[int]) -> np.ndarray:
    """The places of runs, one run after the other."""
    starts, lengths = np.array([*starts]), np.array([*lengths])
    ends = lengths.cumsum()
    return np.arange(ends[-1]) + np.repeat(starts - (ends - lengths), lengths)


def _index(places: np.ndarray, device: torch.device) -> Tensor | slice:
    """The places on the device; a slice when they are one run."""
    begin, count = int(places[0]), len(places)
    if np.array_equal(places, np.arange(begin, begin + count)):
        return slice(begin, begin + count)
    return torch.from_numpy(places).to(device)


def _pick(x: Tensor, places: Tensor | slice) -> Tensor:
    if isinstance(places, slice):
        return x if places == slice(0, len(x)) else x[places]
    return x.index_select(0, places)
