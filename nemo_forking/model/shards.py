"""A model's tensors dealt to safetensors files of a given size, each written where it belongs as soon as it is there.

Headers follow from names, dtypes and shapes alone: several ranks can write into one file, no rank holds a file's
tensors at once, and the files are the same whoever writes them.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from nemo_forking.weight_files import INDEX, Shape

SHARD_BYTES = 5 * 10**9  # as transformers writes them
NAMES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


@dataclass(frozen=True)
class Place:
    """Where a tensor belongs: its file's name, first byte there, dtype and shape."""

    file: str
    start: int
    dtype: torch.dtype
    shape: Shape


@dataclass(frozen=True)
class Shard:
    """One safetensors file to be: its name, its first bytes, its whole size, and where its tensors belong."""

    file: str
    header: bytes
    size: int
    places: dict[str, Place]


def plan_shards(tensors: Mapping[str, tuple[torch.dtype, Shape]], limit: int = SHARD_BYTES) -> list[Shard]:
    """Deal tensors, in their order, to files of at most `limit` bytes of them; a larger one gets a file of its own."""
    groups: list[list[str]] = [[]]
    filled = 0
    for name, tensor in tensors.items():
        if groups[-1] and filled + _bytes(tensor) > limit:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += _bytes(tensor)
    files = (f"model-{number:05d}-of-{len(groups):05d}.safetensors" for number in range(1, len(groups) + 1))
    return [_shard(file, {name: tensors[name] for name in group}) for file, group in zip(files, groups, strict=True)]


def _bytes(tensor: tuple[torch.dtype, Shape]) -> int:
    return tensor[0].itemsize * math.prod(tensor[1])


def _shard(file: str, tensors: dict[str, tuple[torch.dtype, Shape]]) -> Shard:
    """Wide numbers first, so that every tensor starts at a multiple of its item's size."""
    order = sorted(tensors, key=lambda name: -tensors[name][0].itemsize)
    rows, starts, end = {"__metadata__": {"format": "pt"}}, {}, 0
    for name in order:
        starts[name], end = end, end + _bytes(tensors[name])
        dtype, shape = tensors[name]
        rows[name] = {"dtype": NAMES[dtype], "shape": list(shape), "data_offsets": [starts[name], end]}
    text = json.dumps(rows, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    header = len(text).to_bytes(8, "little") + text
    places = {name: Place(file, len(header) + starts[name], *tensors[name]) for name in order}
    return Shard(file, header, len(header) + end, places)


def lay_out(path: Path, shard: Shard) -> None:
    """Write a shard's header, and holes of the right size for its tensors."""
    with path.open("wb") as file:
        file.write(shard.header)
        file.truncate(shard.size)


def put(path: Path, name: str, place: Place, tensor: Tensor) -> None:
    """Write one tensor into its place of a file that was laid out; other tensors may be written at the same time.

    Raises:
        ValueError: the tensor is not of the dtype and shape that were planned.
    """
    if (tensor.dtype, tuple(tensor.shape)) != (place.dtype, tuple(place.shape)):
        raise ValueError(
            f"{name}: expected {place.dtype} of shape {tuple(place.shape)}, found {tensor.dtype} of shape "
            f"{tuple(tensor.shape)}"
        )
    # Not for reading too: an NFS client that may read writes whole pages back, and with them, as they were before, the
    # neighbouring bytes that another node has written meanwhile.
    with os.fdopen(os.open(path, os.O_WRONLY), "wb") as file:
        file.seek(place.start)
        file.write(tensor.cpu().contiguous().view(torch.uint8).numpy())


def write_index(folder: Path, shards: Iterable[Shard]) -> None:
    """Write the index that tells which file holds which tensor."""
    places = {name: place for shard in shards for name, place in shard.places.items()}
    size = sum(_bytes((place.dtype, place.shape)) for place in places.values())
    weight_map = {name: place.file for name, place in places.items()}
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": size}, "weight_map": weight_map}, indent=1))
