"""What lets Megatron-Core and NeMo run without CUDA: everything they call a CUDA device is the CPU.

Inert when a GPU is present. Every name patched here raises on a machine without CUDA, so nothing that worked
before changes meaning; the one exception is `Tensor.type()`, which answers Megatron's own callers only.
"""

import contextlib
import functools
import queue
import sys

import torch

CPU = torch.device("cpu")


def install() -> None:
    """Patch torch.cuda, tensor factories and Megatron's random-state tracker. Idempotent; before building a model."""
    if torch.cuda.is_available() or getattr(torch.cuda.current_device, "is_cpu", False):
        return
    _patch_torch_cuda()
    _patch_tensors()
    _patch_megatron()


def _patch_torch_cuda() -> None:
    cuda = torch.cuda
    cuda.current_device = lambda: CPU
    cuda.current_device.is_cpu = True
    cuda.device_count = lambda: 1  # NeMo seeds the random-state tracker only where it counts a device
    for name in ("set_device", "synchronize", "empty_cache"):
        setattr(cuda, name, lambda *_: None)  # one function each: torch.compile has rules for them one by one
    cuda.Stream = cuda.Event = _Nothing
    cuda.current_stream = lambda *_: _Nothing()
    cuda.stream = lambda _: contextlib.nullcontext()
    cuda.manual_seed = lambda seed: torch.manual_seed(seed)
    cuda.get_rng_state = lambda *_, **__: torch.get_rng_state()
    cuda.set_rng_state = lambda state, *_, **__: torch.set_rng_state(state)


def _patch_tensors() -> None:
    for factory in ("tensor", "zeros", "ones", "empty", "empty_like", "full", "arange"):
        setattr(torch, factory, _on_cpu(getattr(torch, factory)))
    torch.Tensor.cuda = lambda self, *_, **__: self
    torch.Tensor.to = _on_cpu(torch.Tensor.to)
    torch.Tensor.type = _megatron_type(torch.Tensor.type)


def _patch_megatron() -> None:
    from megatron.core.dist_checkpointing.strategies import filesystem_async
    from megatron.core.tensor_parallel import random

    random._get_cuda_rng_state = lambda *_, **__: torch.get_rng_state()
    random._set_cuda_rng_state = lambda state, *_, **__: torch.set_rng_state(state)
    # A synchronous save needs no manager process, whose start re-imports the main module (seconds).
    filesystem_async._results_queue = queue.Queue()


class _Nothing:
    """A CUDA stream or event on a machine that has none: every method does nothing."""

    def __init__(self, *_, **__):
        pass

    def __getattr__(self, _):
        return lambda *_, **__: None


def _on_cpu(function):
    """The same function with every CUDA device among its arguments read as the CPU, and no pinned memory."""

    @functools.wraps(function)
    def call(*args, **kwargs):
        if kwargs:
            if _is_cuda(kwargs.get("device")):
                kwargs["device"] = CPU
            if kwargs.get("pin_memory"):
                kwargs["pin_memory"] = False
        if len(args) > 1 and _is_cuda(args[1]):  # Tensor.to("cuda")
            args = (args[0], CPU, *args[2:])
        return function(*args, **kwargs)

    return call


def _is_cuda(device) -> bool:
    return (isinstance(device, str) and device.startswith("cuda")) or (
        isinstance(device, torch.device) and device.type == "cuda"
    )


def _megatron_type(original):
    """Tensor.type(), saying "torch.cuda..." to Megatron's optimizers, which compare it with those names."""

    def type_(self, *args, **kwargs):
        name = original(self, *args, **kwargs)
        if isinstance(name, str) and sys._getframe(1).f_globals.get("__name__", "").startswith("megatron."):
            return name.replace("torch.", "torch.cuda.", 1)
        return name

    return type_
