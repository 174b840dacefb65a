"""The layer spec of Qwen2: Transformer Engine on a GPU where it is installed, torch's own kernels else.

Both take packed sequences, shared prompts and context parallelism.
"""

import importlib.util

import torch
from megatron.core.models.gpt.gpt_layer_specs import (
    get_gpt_layer_local_spec,
    get_gpt_layer_with_transformer_engine_spec,
)
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build
from torch import nn

from nemo_forking.model import fused
from nemo_forking.model.attention import SegmentAttention, branching

HAVE_TE = torch.cuda.is_available() and importlib.util.find_spec("transformer_engine") is not None


class RMSNorm(nn.RMSNorm):
    """torch's RMSNorm, its weight marked for the gradient all-reduce that sequence parallelism needs."""

    def __init__(self, config, hidden_size, eps=1e-5, **_):
        super().__init__(hidden_size, eps=eps, dtype=config.params_dtype)
        self.weight.sequence_parallel = config.sequence_parallel


def layer_spec(config, vp_stage: int | None = None) -> TransformerBlockSubmodules | ModuleSpec:
    """The decoder block of this pipeline stage (and virtual stage); with Transformer Engine, the layer it repeats.

    A configuration with `compile` is told to fuse what is element-wise (fused.py).
    """
    if getattr(config, "compile", False):
        fused.enable(config)
    if HAVE_TE:
        layer = get_gpt_layer_with_transformer_engine_spec()
        attention = layer.submodules.self_attention.submodules
        attention.core_attention = branching(attention.core_attention)
        return layer
    layer = get_gpt_layer_local_spec(normalization="RMSNorm")
    layer.submodules.input_layernorm = layer.submodules.pre_mlp_layernorm = RMSNorm
    layer.submodules.self_attention.submodules.core_attention = SegmentAttention
    count = get_num_layers_to_build(config, vp_stage=vp_stage)
    return TransformerBlockSubmodules(layer_specs=[layer] * count, layer_norm=RMSNorm)
