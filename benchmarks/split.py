"""What a call spends its time on, by torch's profiler: matrix products, head, attention and the rest."""

from collections.abc import Callable
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

PARTS = {  # words in an operation's name; the first part that has one counts
    "attention": ("attention", "flash", "varlen"),
    "matrix products": ("::mm", "::addmm", "::bmm", "::baddbmm", "::linear", "_scaled_mm"),
    "copies": ("copy", "clone", "cat", "index", "gather", "scatter", "slice", "fill", "zero", "empty", "contiguous"),
    "element-wise": ("aten::", "triton"),
}


def shares(call: Callable[[], Any], device: torch.device, vocabulary: int) -> dict[str, float]:
    """Each part's share of the time that operations take themselves, the largest first.

    The head is whatever touches a tensor as wide as the vocabulary. On a GPU this is the time of kernels, so that
    gaps between them are not in it. Slows the call down.
    """
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_gpu
    with profile(activities=activities, record_shapes=True) as recorded:
        call()
        if on_gpu:
            torch.cuda.synchronize()
    total: dict[str, float] = {}
    for event in recorded.key_averages(group_by_input_shape=True):
        if event.device_type == DeviceType.CPU:  # kernels have events of their own, whose time their operation has too
            part = _part(event.key, event.input_shapes, vocabulary)
            time = event.self_device_time_total if on_gpu else event.self_cpu_time_total
            total[part] = total.get(part, 0.0) + time
    everything = sum(total.values()) or 1.0
    return {part: time / everything for part, time in sorted(total.items(), key=lambda item: -item[1])}


def _part(name: str, shapes: list, vocabulary: int) -> str:
    if any(vocabulary in shape for shape in shapes if isinstance(shape, (list, tuple))):
        return "head"
    name = name.lower()
    return next((part for part, words in PARTS.items() if any(word in name for word in words)), "other")
