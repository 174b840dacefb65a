"""The layer spec of Qwen2: Transformer Engine on a GPU where it is installed, torch scaled-dot-product attention else.

Both take packed sequences and context parallelism. Shape letters: T tokens of this rank, B batch, H' heads of this
tensor-parallel rank, D head size.
"""

import importlib.util
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from megatron.core.models.gpt.gpt_layer_specs import (
    get_gpt_layer_local_spec,
    get_gpt_layer_with_transformer_engine_spec,
)
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.tensor_parallel.mappings import gather_from_sequence_parallel_region
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build
from torch import Tensor, nn

HAVE_TE = torch.cuda.is_available() and importlib.util.find_spec("transformer_engine") is not None


@dataclass
class Documents(PackedSeqParams):
    """Megatron's description of a packed micro-batch, with what the torch attention needs besides.

    `lengths` are the documents' lengths before context parallelism divides them; `positions` is every local token's
    position inside its document.
    """

    lengths: tuple[int, ...] = ()
    positions: Tensor | None = None
    groups: list["_Group"] = field(default_factory=list)


def describe_documents(lengths: tuple[int, ...], positions_T: Tensor) -> Documents:
    """The packed-sequence parameters of one micro-batch for whichever attention is in use."""
    longest = max(lengths)
    packed = Documents(qkv_format="thd", max_seqlen_q=longest, max_seqlen_kv=longest, lengths=lengths)
    if HAVE_TE:
        ends = torch.tensor((0, *lengths), dtype=torch.int32, device=positions_T.device).cumsum(0, dtype=torch.int32)
        packed.cu_seqlens_q = packed.cu_seqlens_kv = ends
    else:  # without cu_seqlens Megatron applies the rotary embedding token by token, at `positions`
        packed.positions = positions_T
        packed.groups = _group_by_length(lengths, positions_T.device)
    return packed


class RMSNorm(nn.RMSNorm):
    """torch's RMSNorm, its weight marked for the gradient all-reduce that sequence parallelism needs."""

    def __init__(self, config, hidden_size, eps=1e-5, **_):
        super().__init__(hidden_size, eps=eps, dtype=config.params_dtype)
        self.weight.sequence_parallel = config.sequence_parallel


class TorchAttention(nn.Module):
    """Causal core attention on torch.nn.functional.scaled_dot_product_attention.

    q, k, v are [T, B, H', D], or [T, H', D] when packed; returns [T, B, H' * D]. Under context parallelism every rank
    holds chunks r and 2n-1-r of each document (Megatron's zig-zag order); keys and values are all-gathered over the
    context-parallel group, their gradients reduce-scattered back.
    """

    def __init__(
        self, config, layer_number, attn_mask_type, attention_type, softmax_scale=None, pg_collection=None, **_
    ):
        super().__init__()
        self.scale, self.context_group = softmax_scale, pg_collection.cp

    def forward(self, q, k, v, attention_mask=None, attn_mask_type=None, attention_bias=None, packed_seq_params=None):
        ranks = self.context_group.size()
        if ranks > 1:
            q, k, v = (t.unsqueeze(1) if packed_seq_params else t for t in (q, k, v))
            lengths = packed_seq_params.lengths if packed_seq_params else (q.size(0) * ranks,)
            out = self._zigzag(q, k, v, lengths)
        elif packed_seq_params:
            out = self._packed(q, k, v, packed_seq_params.groups)
        else:
            out = self._attend(*(t.permute(1, 2, 0, 3) for t in (q, k, v)), is_causal=True).permute(2, 0, 1, 3)
        return out.reshape(q.size(0), -1, out.size(-2) * out.size(-1))

    def _attend(self, q_BHTD, k_BHTD, v_BHTD, **mask) -> Tensor:
        grouped = q_BHTD.size(1) != k_BHTD.size(1)
        return F.scaled_dot_product_attention(q_BHTD, k_BHTD, v_BHTD, scale=self.scale, enable_gqa=grouped, **mask)

    def _packed(self, q_THD, k_THD, v_THD, groups: list["_Group"]) -> Tensor:
        """Documents of like length become one right-padded batch: causal masking alone keeps the padding out."""
        out_THD = torch.empty_like(q_THD) if len(groups) > 1 else None
        for group in groups:
            q, k, v = (group.pad(t).transpose(1, 2) for t in (q_THD, k_THD, v_THD))
            part = group.unpad(self._attend(q, k, v, is_causal=True).transpose(1, 2))
            if out_THD is None:
                return part
            out_THD = out_THD.index_copy(0, group.tokens, part)
        return out_THD

    def _zigzag(self, q_TBHD, k_TBHD, v_TBHD, lengths) -> Tensor:
        ranks, rank = self.context_group.size(), self.context_group.rank()
        order = zigzag_order(lengths, ranks).to(q_TBHD.device)  # natural position -> place in the gathered keys
        gathered = (
            gather_from_sequence_parallel_region(t.contiguous(), group=self.context_group) for t in (k_TBHD, v_TBHD)
        )
        k, v = (t.index_select(0, order).permute(1, 2, 0, 3) for t in gathered)
        q, outs, start, local = q_TBHD.permute(1, 2, 0, 3), [], 0, 0
        for length in lengths:
            chunk = length // (2 * ranks)
            for index in (rank, 2 * ranks - 1 - rank):
                seen = (index + 1) * chunk
                mask = torch.ones(chunk, seen, dtype=torch.bool, device=q.device).tril(seen - chunk)
                keys = slice(start, start + seen)
                outs.append(self._attend(q[:, :, local : local + chunk], k[:, :, keys], v[:, :, keys], attn_mask=mask))
                local += chunk
            start += length
        return torch.cat(outs, 2).permute(2, 0, 1, 3)


class _Group:
    """Documents of like length inside a pack: where their tokens lie, and where each goes in a padded batch."""

    def __init__(self, documents: list[tuple[int, int]], device):  # (start, length) of each
        self.count, self.longest = len(documents), max(length for _, length in documents)
        self.tokens = torch.cat([torch.arange(start, start + length) for start, length in documents]).to(device)
        self.slots = torch.cat(
            [torch.arange(length) + row * self.longest for row, (_, length) in enumerate(documents)]
        ).to(device)
        self.whole = False  # whether the group is the whole pack, in order

    def pad(self, x_THD: Tensor) -> Tensor:
        x = x_THD if self.whole else x_THD.index_select(0, self.tokens)
        padded = x.new_zeros(self.count * self.longest, *x.shape[1:]).index_copy(0, self.slots, x)
        return padded.view(self.count, self.longest, *x.shape[1:])

    def unpad(self, x_BTHD: Tensor) -> Tensor:
        return x_BTHD.flatten(0, 1).index_select(0, self.slots)


def _group_by_length(lengths: tuple[int, ...], device) -> list[_Group]:
    """Documents grouped by the power of two above their length, so that padding less than doubles attention's batch."""
    classes, start = {}, 0
    for length in lengths:
        classes.setdefault(length.bit_length(), []).append((start, length))
        start += length
    groups = [_Group(documents, device) for documents in classes.values()]
    groups[0].whole = len(groups) == 1
    return groups


def zigzag_order(lengths: tuple[int, ...], ranks: int) -> Tensor:
    """Where each token, in natural order, lies once the ranks' zig-zag slices are concatenated. [sum(lengths)]."""
    local = sum(lengths) // ranks
    order, start = [], 0  # start: the document's first token in every rank's slice
    for length in lengths:
        chunk = length // (2 * ranks)
        for index in range(2 * ranks):
            rank, half = (index, 0) if index < ranks else (2 * ranks - 1 - index, 1)
            begin = rank * local + start + half * chunk
            order.append(torch.arange(begin, begin + chunk))
        start += length // ranks
    return torch.cat(order)


def layer_spec(config, vp_stage: int | None = None) -> TransformerBlockSubmodules | ModuleSpec:
    """The decoder block of this pipeline stage (and virtual stage); with Transformer Engine, the layer it repeats."""
    if HAVE_TE:
        return get_gpt_layer_with_transformer_engine_spec()
    layer = get_gpt_layer_local_spec(normalization="RMSNorm")
    layer.submodules.input_layernorm = layer.submodules.pre_mlp_layernorm = RMSNorm
    layer.submodules.self_attention.submodules.core_attention = TorchAttention
    count = get_num_layers_to_build(config, vp_stage=vp_stage)
    return TransformerBlockSubmodules(layer_specs=[layer] * count, layer_norm=RMSNorm)
