"""A Megatron distributed checkpoint (torch_dist) read in one process, a tensor at a time and without its optimizer.

Such a checkpoint holds whole tensors in pieces, whatever layout wrote it; `.metadata` tells where the pieces lie. All
layers' tensors of one kind are one, layers first.
"""

from __future__ import annotations

import functools
import math
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, TensorStorageMetadata
from torch.distributed.checkpoint.planner import LoadPlan, ReadItem
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list

from nemo_forking.errors import UserError
from nemo_forking.model.hf_folder import ModelShape, tensor_shape
from nemo_forking.model.names import in_checkpoints, split
from nemo_forking.model.sources import Source

METADATA = ".metadata"


class DistCheckpoint:
    """The model's tensors in a checkpoint, by their Hugging Face names.

    Attributes:
        tensors: name -> (dtype, shape) of every tensor of the model, in the order of the forward pass.

    Raises:
        UserError: when opened, for a folder that holds no such checkpoint or another model's (all tensors that are
            missing or of another shape, up to eight); when read, for a damaged file, naming the tensor.
    """

    def __init__(self, folder: str | Path, model: ModelShape, key: str = "convert.source"):
        self.folder, self.model, self.key = Path(folder), model, key
        try:
            self._reader = FileSystemReader(self.folder)
            self._metadata = self._reader.read_metadata()
        except Exception as error:
            raise UserError(f"{key}={folder}: no readable Megatron checkpoint ({error!r})") from None
        self._reader.set_up_storage_reader(self._metadata, is_coordinator=True)
        self._places = {  # Hugging Face name -> (key of the checkpoint, layer, which part of the fused tensor)
            name: (fused, layer, part)
            for fused, layer, names in in_checkpoints(model)
            for part, name in enumerate(names)
        }
        self._check()
        self.tensors = {
            name: (self._metadata.state_dict_metadata[fused].properties.dtype, tensor_shape(model, name))
            for name, (fused, _, _) in self._places.items()
        }
        self._fused = functools.lru_cache(maxsize=2)(self._read)  # a weight and its bias: parts are asked in turn

    def source(self) -> Source:
        """A function from a Hugging Face name to the tensor; at most two fused tensors are kept."""

        def get(name: str) -> Tensor:
            fused, layer, part = self._places[name]
            return split(self.model, fused, self._fused(fused, layer))[part]

        return get

    def _check(self) -> None:
        wrong, names = [], {}
        for name, (fused, layer, _) in self._places.items():
            if layer in (None, 0):
                names.setdefault(fused, []).append(tensor_shape(self.model, name))
        for fused, shapes in names.items():
            found = self._metadata.state_dict_metadata.get(fused)
            rows = sum(shape[0] for shape in shapes)
            layers = (self.model.num_layers,) if fused.startswith("decoder.layers.") else ()
            expected = (*layers, rows, *shapes[0][1:])
            if not isinstance(found, TensorStorageMetadata):
                wrong.append(f"tensor {fused}: expected shape {expected}, it is not in the checkpoint")
            elif tuple(found.size) != expected:
                wrong.append(f"tensor {fused}: expected shape {expected}, found {tuple(found.size)}")
        if "output_layer.weight" in self._metadata.state_dict_metadata and self.model.tie_embeddings:
            wrong.append("tensor output_layer.weight: the configured model ties it to the embedding")
        if wrong:
            lines = "\n".join(f"  {line}" for line in wrong)
            raise UserError(f"{self.key}={self.folder}: not the configured model\n{lines}\nremedy: set the model group")

    def _read(self, fused: str, layer: int | None) -> Tensor:
        """One fused tensor; the gate and up projections as [2, ffn, hidden]."""
        stored = self._metadata.state_dict_metadata[fused]
        sizes = tuple(stored.size) if layer is None else (1, *stored.size[1:])
        offsets = (layer or 0,) + (0,) * (len(sizes) - 1)
        target = torch.empty(sizes, dtype=stored.properties.dtype)
        chunk = ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes))
        items = create_read_items_for_chunk_list(fused, stored, [chunk])
        where = f"{self.key}={self.folder}: tensor {fused}" + ("" if layer is None else f", layer {layer}")
        found = sum(math.prod(item.lengths) for item in items)
        if found != target.numel():
            raise UserError(f"{where}: expected {target.numel():,} numbers of shape {sizes}, found {found:,}")
        try:
            self._reader.read_data(LoadPlan(items), _Into(target)).wait()
        except Exception as error:
            raise UserError(
                f"{where} of shape {sizes} cannot be read: {error!r}; the files are damaged, copy them again"
            ) from None
        whole = target if layer is None else target[0]
        return whole.view(2, -1, whole.size(-1)) if fused.endswith("linear_fc1.weight") else whole


class _Into:
    """What torch's reader asks where to put a piece that it has read."""

    def __init__(self, target: Tensor):
        self.target = target

    def resolve_tensor(self, item: ReadItem) -> Tensor:
        view = self.target
        for dim, (offset, length) in enumerate(zip(item.dest_offsets, item.lengths, strict=True)):
            view = view.narrow(dim, offset, length)
        return view

    def commit_tensor(self, item: ReadItem, tensor: Tensor) -> None:
        """Nothing: the piece was copied into its place."""


def is_checkpoint(folder: str | Path) -> bool:
    """Whether a folder holds a distributed checkpoint."""
    return (Path(folder) / METADATA).is_file()
