"""Torch's own count of a call's additions and multiplications, an oracle for counts by formula."""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

AT = torch.ops.aten


def torch_count(call: Callable[[], Any]) -> float:
    """FLOPs of a call, and what torch's counter does not know: attention on the CPU, products added in place."""
    unknown = {
        AT._scaled_dot_product_flash_attention_for_cpu: _causal(2),
        AT._scaled_dot_product_flash_attention_for_cpu_backward: _causal(4),
        AT.addmm_: lambda total, left, right, **_: 2 * left[0] * left[1] * right[1],
    }
    with FlopCounterMode(display=False, custom_mapping=unknown) as counter:
        call()
    return counter.get_total_flops()


def _causal(products: int) -> Callable[..., int]:
    """Of attention with so many products of half a [T, T] by D; scores that a backward pass makes again are free."""

    def flops(*shapes, **_) -> int:
        batch, heads, time, size = next(shape for shape in shapes if len(shape) == 4)
        return products * batch * heads * time * time * size

    return flops
