"""Causal core attention of packs: documents with or without branches, whole or cut by context parallelism.

Shape letters: T tokens of this rank, B batch, H query heads and G key heads of this tensor-parallel rank, D head size.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from megatron.core import parallel_state
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.tensor_parallel.mappings import gather_from_sequence_parallel_region
from torch import Tensor, nn

from nemo_forking.data.packing import Document
from nemo_forking.model.kernels import attend, prepare
from nemo_forking.model.segments import Segment, cut, gathered_order


@dataclass
class Documents(PackedSeqParams):
    """Megatron's description of a packed micro-batch, with what the torch attention needs besides.

    Either `cu_seqlens_q`, for Transformer Engine, or the rest: Megatron applies the rotary embedding document by
    document where it finds `cu_seqlens_q`, and token by token, at `positions`, where it does not.
    """

    positions: Tensor | None = None  # [T] every local token's place inside its document
    segments: list[Segment] = field(default_factory=list)
    order: np.ndarray | None = None  # where the pack's tokens lie once keys are gathered; None without context ranks
    kernel: Callable[..., Tensor] | None = None  # made by the first layer, which knows the tensors' type


def describe_documents(
    documents: tuple[Document, ...], positions_T: Tensor, group=None, transformer_engine: bool = False
) -> Documents:
    """The packed-sequence parameters of one micro-batch, told once for all layers.

    Args:
        documents: what lies in the pack, in order, over all context-parallel ranks.
        positions_T: place of each of this rank's tokens in its document; a branch's begin where its trunk ends.
        group: the context-parallel group; None for Megatron's.
        transformer_engine: whether the layers are Transformer Engine's, which attends documents without branches.
    """
    longest = max(d.trunk + max(d.branches, default=0) for d in documents)  # the rotary table's length
    packed = Documents(qkv_format="thd", max_seqlen_q=longest, max_seqlen_kv=longest)
    if transformer_engine and not any(d.branches for d in documents):
        ends = np.cumsum([0, *(d.length for d in documents)])
        packed.cu_seqlens_q = packed.cu_seqlens_kv = torch.tensor(ends, dtype=torch.int32, device=positions_T.device)
        return packed
    group = group or parallel_state.get_context_parallel_group()
    packed.positions = positions_T
    packed.segments = cut(documents, group.size(), group.rank())
    packed.order = gathered_order(documents, group.size()) if group.size() > 1 else None
    return packed


class SegmentAttention(nn.Module):
    """Megatron's core attention on torch's own kernels.

    q, k, v are [T, B, H or G, D], or [T, H or G, D] when packed; returns [T, B, H * D]. Under context parallelism
    every rank holds chunks r and 2n-1-r of each document (Megatron's zig-zag order); keys and values are all-gathered
    over the context-parallel group, in one collective, and their gradients reduce-scattered back.
    """

    def __init__(
        self, config, layer_number, attn_mask_type, attention_type, softmax_scale=None, pg_collection=None, **_
    ):
        super().__init__()
        self.scale, self.context_group = softmax_scale, pg_collection.cp

    def forward(
        self,
        query,
        key,
        value,
        attention_mask=None,
        attn_mask_type=None,
        attention_bias=None,
        packed_seq_params: Documents | None = None,
    ) -> Tensor:
        """As Megatron calls it; mask and bias are unused."""
        if packed_seq_params:
            out = self._packed(query, key, value, packed_seq_params)
        elif self.context_group.size() == 1:
            q, k, v = (t.permute(1, 2, 0, 3) for t in (query, key, value))
            out = attend(q, k, v, self.scale, is_causal=True).permute(2, 0, 1, 3)
        else:
            out = self._padded(query, key, value)
        return out.reshape(query.size(0), -1, out.size(-2) * out.size(-1))

    def _packed(self, q_THD: Tensor, k_TGD: Tensor, v_TGD: Tensor, packed: Documents) -> Tensor:
        if packed.order is not None:
            both = gather_from_sequence_parallel_region(torch.cat((k_TGD, v_TGD), -1), group=self.context_group)
            k_TGD, v_TGD = both.split([k_TGD.size(-1), v_TGD.size(-1)], -1)
        if packed.kernel is None:
            packed.kernel = prepare(packed.segments, packed.order, q_THD)
        return packed.kernel(q_THD, k_TGD, v_TGD, self.scale)

    def _padded(self, q_TBHD: Tensor, k_TBGD: Tensor, v_TBGD: Tensor) -> Tensor:
        """A padded batch is a pack of documents of one length, laid side by side."""
        time, batch = q_TBHD.shape[:2]
        documents = (Document(time * self.context_group.size()),) * batch
        packed = describe_documents(documents, torch.arange(0), self.context_group)
        q, k, v = (t.transpose(0, 1).flatten(0, 1) for t in (q_TBHD, k_TBGD, v_TBGD))
        return self._packed(q, k, v, packed).unflatten(0, (batch, time)).transpose(0, 1)


def branching(core_attention: type[nn.Module]) -> type[nn.Module]:
    """Megatron's core attention of this kind, which leaves documents with branches to SegmentAttention."""

    class Branching(core_attention):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.by_segments = SegmentAttention(*args, **kwargs)

        def forward(self, *args, packed_seq_params=None, **kwargs):
            attend = self.by_segments if getattr(packed_seq_params, "segments", None) else super().forward
            return attend(*args, packed_seq_params=packed_seq_params, **kwargs)

    return Branching
