"""Time and peak memory of one call, on a GPU or on the CPU."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def seconds(call: Callable[[], Any], device: torch.device) -> float:
    """Seconds of one call: wall-clock on a GPU, its work included; on the CPU processor time, over all threads.

    A CPU is often shared, and a process that waits for its turn does not work.
    """
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    _wait(device)
    started = clock()
    call()
    _wait(device)
    return clock() - started


def in_turn(
    calls: Mapping[str, Callable[[], Any]], repeats: int, device: torch.device
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Median of every call's seconds, and all of them: one call after the other, so a busy moment meets them all."""
    times = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            times[name].append(seconds(call, device))
    return {name: statistics.median(of_call) for name, of_call in times.items()}, times


def peak_bytes(call: Callable[[], Any], device: torch.device) -> tuple[int, Any]:
    """Most bytes of tensors alive at once during the call above those alive before it (weights, for one); its result.

    On a GPU the allocator's own count. On the CPU the sizes of the tensors that operations allocate, so that the
    answer is the same on every run; scratch space inside a kernel is not seen. Slows the call down: time another one.
    """
    if device.type == "cuda":
        _wait(device)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        result = call()
        return torch.cuda.max_memory_allocated() - before, result
    with _Allocations() as allocations:
        result = call()
    return allocations.peak, result


def machine(device: torch.device) -> dict[str, Any]:
    """What a record says of the machine."""
    return {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
    }


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


class _Allocations(TorchDispatchMode):
    """Follows every storage that an operation allocates until it is freed.

    A storage first seen among an operation's arguments was there before (weights); views and in-place results share
    their argument's.
    """

    def __init__(self):
        super().__init__()
        self.peak = 0
        self._live: dict[StorageWeakRef, int] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = {_storage(x) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and _storage(tensor) not in given:
                self._live[_storage(tensor)] = tensor.untyped_storage().nbytes()
        self._live = {storage: size for storage, size in self._live.items() if not storage.expired()}
        self.peak = max(self.peak, sum(self._live.values()))
        return out


def _storage(tensor: Tensor) -> StorageWeakRef:
    return StorageWeakRef(tensor.untyped_storage())
