"""Element-wise steps between matrix products, each compiled to one kernel (layout.compile).

Megatron has switches for both. SwiGLU's is compiled by Megatron itself and keeps its input alone for the backward
pass. The rotary embedding's is Transformer Engine's kernel or nothing: ours takes that place. RMSNorm is one kernel in
torch already, and dropout is 0, so no more than an addition is left of the residual step.
"""

import functools
from collections.abc import Callable

import torch
from megatron.core.models.common.embeddings import rope_utils
from torch import Tensor


def enable(config) -> None:
    """Have the layers of this Megatron configuration compiled where they are element-wise; before they are built."""
    config.bias_activation_fusion = config.apply_rope_fusion = True
    rope_utils.fused_apply_rotary_pos_emb = rotary  # read by configurations with apply_rope_fusion alone


def rotary(x: Tensor, angles: Tensor, interleaved: bool = False) -> Tensor:
    """Rotate pairs (i, i + D/2) of x [T, ..., D] by angles [T, 1, ..., D], whose halves are alike."""
    assert not interleaved, "Qwen2 rotates halves, not neighbours"
    angles = angles[..., : angles.size(-1) // 2]  # their cosines outside: once a token, not once a head
    return _compiled()(x, angles.cos().to(x.dtype), angles.sin().to(x.dtype))


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    left, right = x.chunk(2, -1)
    return torch.cat((left * cos - right * sin, right * cos + left * sin), -1)


@functools.cache
def _compiled() -> Callable[..., Tensor]:
    return torch.compile(_rotate, dynamic=True)  # queries and keys, training and scoring differ in size
