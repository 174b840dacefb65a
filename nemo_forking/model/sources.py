"""Where weights come from. A source is a function from a Hugging Face tensor name to the whole tensor.

Every rank reads what it holds, when it needs it; neither NeMo nor Megatron is met here.
"""

import zlib
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from nemo_forking.errors import UserError
from nemo_forking.model.hf_folder import EMBEDDING, HEAD
from nemo_forking.tags import Tags, initial_rows
from nemo_forking.weight_files import tensor_entries

Source = Callable[[str], Tensor]


def from_folder(folder: str | Path) -> Source:
    """A Hugging Face checkpoint folder with safetensors files. Raises UserError naming a missing file or tensor."""
    entries = tensor_entries(folder)

    def get(name: str) -> Tensor:
        if name == HEAD and HEAD not in entries:
            name = EMBEDDING  # tied
        if name not in entries:
            raise UserError(f"model.base={folder}: tensor {name} is not in the checkpoint; is it a Qwen2 model?")
        with safe_open(entries[name].file, "pt") as f:
            return f.get_tensor(name)

    return get


def from_seed(shapes: Callable[[str], tuple[int, ...]], seed: int, std: float) -> Source:
    """Random weights, each tensor from a generator seeded by its own name: the same under every layout.

    Norms are 1, biases 0, matrices normal with `std`, as transformers initialises Qwen2.
    """

    def get(name: str) -> Tensor:
        shape = shapes(name)
        if len(shape) == 1:
            return torch.zeros(shape) if name.endswith("bias") else torch.ones(shape)
        generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))
        return torch.randn(shape, generator=generator) * std

    return get


def with_tags(source: Source, tags: Tags, noise: float, seed: int) -> Source:
    """The same source with the tags' embedding and output rows initialised (tags.initial_rows); text tags need none."""
    if tags.spelling != "special":
        return source
    rows = [ids[0] for ids in tags.ids_NK]

    def get(name: str) -> Tensor:
        tensor = source(name)
        if name in (EMBEDDING, HEAD):
            tensor = tensor.clone()
            tensor[rows] = initial_rows(tags, tensor, None, noise, seed)
        return tensor

    return get
