"""A Megatron distributed checkpoint (torch_dist) read in one process, a tensor at a time and without its optimizer.

Such a checkpoint holds whole tensors in pieces, whatever layout wrote it; `.metadata` tells where the pieces lie. All
layers' tensors of one kind are one, layers first.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, ReadItem
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list

from nemo_forking.errors import UserError
from nemo_forking.model.hf_folder import ModelShape, listed, not_the_model, tensor_shape
from nemo_forking.model.names import in_checkpoints, split
from nemo_forking.model.sources import Source
from nemo_forking.weight_files import Shape

OURS = ("embedding.", "decoder.", "output_layer.")  # what a model's keys begin with; the optimizer's begin otherwise
EXTRA = "_extra_state"  # Transformer Engine's, of 8-bit products: scales and their history, no weights


class DistCheckpoint:
    """The model's tensors in a checkpoint, by their Hugging Face names.

    Attributes:
        tensors: name -> (dtype, shape) of every tensor of the model, in the order of the forward pass.

    Raises:
        UserError: when opened, for a folder that holds no such checkpoint or another model's (all tensors that are
            missing or of another shape, up to eight), or whose files are not there or cut off; when read, for a
            damaged file, naming the tensor.
    """

    def __init__(self, folder: str | Path, model: ModelShape, key: str = "convert.source"):
        self.model, self.where = model, f"{key}={folder}"
        self._folder, self._reader = Path(folder), FileSystemReader(folder)
        self._metadata = self._open()
        self._stored = self._metadata.state_dict_metadata
        self._names = {(fused, layer): names for fused, layer, names in in_checkpoints(model)}
        self._check_shapes()
        self._check_files()
        self.tensors = {
            name: (self._stored[fused].properties.dtype, tensor_shape(model, name))
            for (fused, _), names in self._names.items()
            for name in names
        }

    def source(self) -> Source:
        """A function from a Hugging Face name to the tensor.

        The other parts of a fused tensor are kept until they are asked for, those of two tensors at most: a weight and
        its bias, whose parts are asked for in turn.
        """
        places = {name: place for place, names in self._names.items() for name in names}
        kept: dict[tuple[str, int | None], dict[str, Tensor]] = {}

        def get(name: str) -> Tensor:
            place = places[name]
            if name not in kept.get(place, ()):
                kept[place] = dict(zip(self._names[place], split(self.model, place[0], self.read(*place)), strict=True))
                if len(kept) > 2:
                    del kept[next(iter(kept))]
            part = kept[place].pop(name)
            if not kept[place]:
                del kept[place]
            return part

        return get

    def read(self, fused: str, layer: int | None) -> Tensor:
        """One fused tensor by its key, and the layer for keys of layers; gate and up projections as [2, ffn, hidden].

        Raises:
            UserError: its file is damaged.
        """
        stored = self._stored[fused]
        sizes = tuple(stored.size) if layer is None else (1, *stored.size[1:])
        offsets = (layer or 0,) + (0,) * (len(sizes) - 1)
        target = torch.empty(sizes, dtype=stored.properties.dtype)
        chunk = ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes))
        items = create_read_items_for_chunk_list(fused, stored, [chunk])
        where = f"{self.where}: tensor {fused}" + ("" if layer is None else f", layer {layer}")
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

    # ------------------------------------------------------------ checked when opened

    def _open(self) -> Metadata:
        try:
            metadata = self._reader.read_metadata()
            self._reader.set_up_storage_reader(metadata, is_coordinator=True)
            if not isinstance(metadata, Metadata) or not isinstance(metadata.storage_data, dict):
                raise TypeError(f"a {type(metadata).__name__}")
        except Exception as error:
            raise UserError(
                f"{self.where}: no readable Megatron checkpoint (.metadata: {error!r}); copy it again"
            ) from None
        return metadata

    def _check_shapes(self) -> None:
        shapes, wrong = self._shapes(), []
        for fused, expected in shapes.items():
            found = self._stored.get(fused)
            if not isinstance(found, TensorStorageMetadata):
                wrong.append(f"tensor {fused}: expected shape {expected}, it is not in the checkpoint")
            elif tuple(found.size) != expected:
                wrong.append(f"tensor {fused}: expected shape {expected}, found {tuple(found.size)}")
            elif not found.properties.dtype.is_floating_point:
                wrong.append(f"tensor {fused}: expected floating-point numbers, found {found.properties.dtype}")
        for fused, found in self._stored.items():
            extra = fused.startswith(OURS) and EXTRA not in fused and isinstance(found, TensorStorageMetadata)
            if extra and fused not in shapes:
                wrong.append(
                    f"tensor {fused}: found shape {tuple(found.size)}, the configured model has no such tensor"
                )
        if wrong:
            raise not_the_model(self.where, wrong)

    def _shapes(self) -> dict[str, Shape]:
        """Key -> shape: rows of the parts of a fused tensor one after the other, all layers' in one."""
        shapes = {}
        for (fused, layer), names in self._names.items():
            parts = [tensor_shape(self.model, name) for name in names]
            layers = () if layer is None else (self.model.num_layers,)
            shapes[fused] = (*layers, sum(part[0] for part in parts), *parts[0][1:])
        return shapes

    def _check_files(self) -> None:
        sizes = {file.name: file.stat().st_size for file in self._folder.iterdir() if file.is_file()}
        wrong = [line for fused in self._shapes() for line in self._damages(fused, sizes)]
        if wrong:
            raise UserError(f"{self.where}: not a whole checkpoint\n{listed(wrong)}\nremedy: copy it again")

    def _damages(self, fused: str, sizes: dict[str, int]) -> Iterator[str]:
        """What is wrong with the pieces of one tensor, told by the sizes of the files they lie in."""
        stored, covered = self._stored[fused], 0
        for piece in stored.chunks:
            tensor = f"tensor {fused}, piece of shape {tuple(piece.sizes)} at {tuple(piece.offsets)}"
            place = self._metadata.storage_data.get(MetadataIndex(fused, piece.offsets))
            least = math.prod(piece.sizes) * stored.properties.dtype.itemsize
            covered += math.prod(piece.sizes)
            if place is None:
                yield f"{tensor}: .metadata does not tell its file"
            elif place.relative_path not in sizes:
                yield f"{tensor}: expected in {place.relative_path}, which is not there"
            elif place.length < least:
                yield f"{tensor}: expected {least:,} bytes, found {place.length:,} in {place.relative_path}"
            elif (end := place.offset + place.length) > (size := sizes[place.relative_path]):
                yield f"{tensor}: {place.relative_path} is cut off, expected {end:,} bytes, found {size:,}"
        if covered != math.prod(stored.size):
            yield f"tensor {fused}: expected shape {tuple(stored.size)}, its pieces hold {covered:,} numbers"


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
