"""Qwen2's tensors by their two names: Megatron's, which are fused, and Hugging Face's, which are not."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from nemo_forking.config.schema import head_size
from nemo_forking.model.hf_folder import EMBEDDING, FINAL_NORM, HEAD, ModelShape

# Megatron's name inside a layer -> the Hugging Face tensors it is made of. Fused tensors list their parts in order.
LAYER = {
    "self_attention.linear_qkv.weight": (
        "self_attn.q_proj.weight",
        "self_attn.k_proj.weight",
        "self_attn.v_proj.weight",
    ),
    "self_attention.linear_qkv.bias": ("self_attn.q_proj.bias", "self_attn.k_proj.bias", "self_attn.v_proj.bias"),
    "self_attention.linear_proj.weight": ("self_attn.o_proj.weight",),
    "mlp.linear_fc1.weight": ("mlp.gate_proj.weight", "mlp.up_proj.weight"),
    "mlp.linear_fc2.weight": ("mlp.down_proj.weight",),
    "input_layernorm.weight": ("input_layernorm.weight",),
    "pre_mlp_layernorm.weight": ("post_attention_layernorm.weight",),
    # Transformer Engine fuses the norms into the linears that follow them
    "self_attention.linear_qkv.layer_norm_weight": ("input_layernorm.weight",),
    "mlp.linear_fc1.layer_norm_weight": ("post_attention_layernorm.weight",),
}
NORMS = {  # Megatron's own layers' names -> those that checkpoints have
    "input_layernorm.weight": "self_attention.linear_qkv.layer_norm_weight",
    "pre_mlp_layernorm.weight": "mlp.linear_fc1.layer_norm_weight",
}
OUTSIDE = {
    "embedding.word_embeddings.weight": (EMBEDDING,),
    "output_layer.weight": (HEAD,),
    "decoder.final_layernorm.weight": (FINAL_NORM,),
}


def fuse(model: ModelShape, name: str, parts: list[Tensor]) -> Tensor:
    """Megatron's whole tensor, with the dimension that tensor parallelism cuts as one that `chunk` can cut."""
    if "linear_qkv." in name and len(parts) == 3:  # per query group: its queries, its key, its value
        groups = model.num_query_groups
        return torch.cat([p.reshape(groups, -1, *p.shape[1:]) for p in parts], 1).flatten(0, 1)
    return parts[0] if len(parts) == 1 else torch.stack(parts)  # gate and up: [2, ffn, hidden]


def split(model: ModelShape, name: str, full: Tensor) -> list[Tensor]:
    """The inverse of fuse."""
    if name.endswith(("linear_qkv.weight", "linear_qkv.bias")):
        groups, per_group = model.num_query_groups, model.num_attention_heads // model.num_query_groups
        size = head_size(model)
        sizes = [per_group * size, size, size]
        parts = full.view(groups, sum(sizes), *full.shape[1:]).split(sizes, 1)
        return [p.flatten(0, 1) for p in parts]
    return list(full) if name.endswith("linear_fc1.weight") else [full]


def in_checkpoints(model: ModelShape) -> Iterator[tuple[str, int | None, list[str]]]:
    """(key in a Megatron distributed checkpoint, layer or None, Hugging Face names), in the order of the forward pass.

    There a layer's tensor is one slice of all layers' tensor, and norms have the names Transformer Engine gives them.
    """
    inside = [name for name in LAYER if name not in NORMS]
    yield "embedding.word_embeddings.weight", None, [EMBEDDING]
    for layer in range(model.num_layers):
        for name in inside:
            yield f"decoder.layers.{name}", layer, [f"model.layers.{layer}.{part}" for part in LAYER[name]]
    yield "decoder.final_layernorm.weight", None, [FINAL_NORM]
    if not model.tie_embeddings:
        yield "output_layer.weight", None, [HEAD]
