"""What a run starts from (model.base): a Hugging Face folder, or a Megatron distributed checkpoint."""

from __future__ import annotations

from pathlib import Path

from nemo_forking.model.hf_folder import ModelShape, check_folder
from nemo_forking.model.sources import Source, from_folder

METADATA = ".metadata"  # tells where a distributed checkpoint's tensors lie


def is_checkpoint(folder: str | Path) -> bool:
    """Whether a folder holds a distributed checkpoint (torch_dist)."""
    return (Path(folder) / METADATA).is_file()


def check_base(folder: str | Path, model: ModelShape) -> None:
    """Refuse a folder that does not hold this model, each tensor of its shape and in whole files; reads no weights.

    Raises:
        UserError: naming file or tensor, shape expected and shape found.
    """
    if is_checkpoint(folder):
        _checkpoint(folder, model)
    else:
        check_folder(folder, model)


def base_weights(folder: str | Path, model: ModelShape) -> Source:
    """The folder's weights, a tensor at a time, for whoever needs it: every rank reads what it holds."""
    return _checkpoint(folder, model).source() if is_checkpoint(folder) else from_folder(folder)


def _checkpoint(folder: str | Path, model: ModelShape):
    from nemo_forking.model.dist_checkpoint import DistCheckpoint  # a second of imports

    return DistCheckpoint(folder, model, key="model.base")
