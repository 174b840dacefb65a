"""A Megatron distributed checkpoint (torch_dist) of a model's weights, written in one process, layer after layer.

It holds what Megatron writes for a model without its optimizer: `dist_checkpointing.load` reads it under any layout.
One file a layer, one before the first and one after the last; a file that is finished is kept when the work is ended.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

from nemo_forking.errors import UserError
from nemo_forking.files import write_aside
from nemo_forking.model.base import METADATA
from nemo_forking.model.hf_folder import ModelShape
from nemo_forking.model.names import fuse, in_checkpoints
from nemo_forking.model.sources import Source
from nemo_forking.weight_files import Shape

# Modules whose `_extra_state` a model may ask for, Transformer Engine's with and without attention's; left empty
STATES = (
    "self_attention.linear_proj",
    "self_attention.linear_qkv",
    "self_attention.core_attention",
    "mlp.linear_fc1",
    "mlp.linear_fc2",
)
LAST_STATE = "decoder.final_layernorm._extra_state/shard_0_1"
FORMAT = {"sharded_backend": "torch_dist", "sharded_backend_version": 1}
COMMON = {"common_backend": "torch", "common_backend_version": 1}


def write_files(aside: Path, model: ModelShape, source: Source, tell: Callable[[str], None] = print) -> None:
    """Write the checkpoint's files into a folder, leaving out those that are there; one fused tensor at a time."""
    if not (aside / METADATA).is_file():  # which is written last
        _write_all(aside, model, source, tell)
    for record in aside.glob(".*.places"):
        record.unlink()


def _write_all(aside: Path, model: ModelShape, source: Source, tell: Callable[[str], None]) -> None:
    written = []
    for number, (layer, group) in enumerate(itertools.groupby(in_checkpoints(model), key=lambda row: row[1])):
        file, record = f"__{number}_0.distcp", aside / f".{number}.places"
        if record.is_file():
            tell(f"{file} is there already")
        else:
            places = _write_file(aside / file, model, layer, [(fused, names) for fused, _, names in group], source)
            write_aside(record, json.dumps(places))
            tell(f"{file}  {(aside / file).stat().st_size / 1e9:.2f} GB")
        written += [(file, *place) for place in json.loads(record.read_text())]
    _finish(aside, model, written)


def check_dtypes(model: ModelShape, tensors: Mapping[str, tuple[torch.dtype, Shape]], where: str) -> None:
    """Refuse tensors of unlike dtypes that a checkpoint keeps as one: parts of a fused tensor, and all layers'.

    Raises:
        UserError: naming the first that differs.
    """
    first: dict[str, str] = {}
    for fused, _, names in in_checkpoints(model):
        for name in names:
            like = first.setdefault(fused, name)
            if tensors[name][0] != tensors[like][0]:
                raise UserError(
                    f"{where}: tensor {name}: expected {tensors[like][0]}, as {like} is, found {tensors[name][0]}; a "
                    f"Megatron checkpoint keeps both in {fused}: bring them to one dtype first"
                )


def _write_file(path: Path, model: ModelShape, layer: int | None, group: list, source: Source) -> list:
    """[key, offsets or None, sizes, dtype, first byte, bytes] of everything in one file."""
    places = []
    with path.open("wb") as file:
        for fused, names in group:
            tensor = _stored(fuse(model, fused, [source(name) for name in names]), fused, layer)
            offsets = [layer or 0] + [0] * (tensor.dim() - 1)
            dtype = str(tensor.dtype).removeprefix("torch.")
            places.append([fused, offsets, list(tensor.shape), dtype, *_saved(tensor, file)])
        for key in _states(model, layer, [fused for fused, _ in group]):
            places.append([key, None, None, None, *_saved(None, file)])
        file.flush()
        os.fsync(file.fileno())
    return places


def _states(model: ModelShape, layer: int | None, group: list[str]) -> list[str]:
    """Keys of the states that lie in a file."""
    if layer is not None:
        return [f"decoder.layers.{module}._extra_state/shard_{layer}_{model.num_layers}" for module in STATES]
    return [LAST_STATE] if "decoder.final_layernorm.weight" in group else []


def _stored(tensor: Tensor, fused: str, layer: int | None) -> Tensor:
    if fused.endswith("linear_fc1.weight"):
        tensor = tensor.flatten(0, 1)
    return (tensor if layer is None else tensor[None]).contiguous()


def _saved(value: Tensor | None, file: BinaryIO) -> tuple[int, int]:
    start = file.tell()
    if value is None:
        buffer = io.BytesIO()
        torch.save([None], buffer)  # one rank's state, which is empty
        file.write(buffer.getbuffer())
    else:
        torch.save(value, file)
    return start, file.tell() - start


def _finish(aside: Path, model: ModelShape, written: list) -> None:
    state, storage = {}, {}
    for file, key, offsets, sizes, dtype, start, length in written:
        index = MetadataIndex(key, None if offsets is None else torch.Size(offsets))
        storage[index] = _StorageInfo(file, start, length)
        if offsets is None:
            state[key] = BytesStorageMetadata()
            continue
        whole = (model.num_layers, *sizes[1:]) if key.startswith("decoder.layers.") else sizes
        entry = state.setdefault(
            key, TensorStorageMetadata(TensorProperties(dtype=getattr(torch, dtype)), torch.Size(whole), [])
        )
        entry.chunks.append(ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes)))
    torch.save({}, aside / "common.pt")
    (aside / "metadata.json").write_text(json.dumps(FORMAT | COMMON))
    write_aside(aside / METADATA, pickle.dumps(Metadata(state, storage_data=storage)))
