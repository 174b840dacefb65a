"""What can be told of a Hugging Face model folder without loading it, and what an engine checks with it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from nemo_forking.errors import UserError
from nemo_forking.weight_files import Shape, tensor_entries

Shapes = dict[str, Shape]
TIED = "lm_head.weight"  # written by some exporters of tied models and not by others


def model_config(folder: str | Path) -> dict:
    """The folder's config.json.

    Raises:
        UserError: there is none, or it is unreadable.
    """
    try:
        return json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{folder}: no config.json there; give a model folder in Hugging Face format") from None
    except ValueError as error:
        raise UserError(f"{Path(folder) / 'config.json'}: not readable as JSON ({error})") from None


def context_length(model: int | None, limit: int | None) -> int | None:
    """The most tokens of prompt and completion together: the smaller of the model's own context and a limit."""
    return min((length for length in (model, limit) if length is not None), default=None)


def check_banned(banned: Sequence[int], vocabulary: int) -> None:
    """Raises UserError where a banned token id is none of the model's."""
    outside = [i for i in banned if not 0 <= i < vocabulary]
    if outside:
        raise UserError(f"banned token ids {outside} lie outside the model's {vocabulary} vocabulary rows")


def weight_shapes(folder: str | Path) -> Shapes:
    """Name and shape of every tensor in the folder's safetensors files, whose headers alone are read.

    Raises:
        UserError: there are none, one is damaged, or one that the index names is not there.
    """
    return {name: entry.shape for name, entry in tensor_entries(folder).items()}


def check_shapes(present: Shapes, fresh: Shapes, folder: str | Path) -> None:
    """Raises UserError where the weights of `folder` would not fit in the place of the present ones."""
    names = (present.keys() ^ fresh.keys()) - {TIED}
    if names:
        raise UserError(f"{folder}: not the architecture that is loaded: {min(names)} is in one of the two only")
    for name in sorted(present.keys() & fresh.keys()):
        if present[name] != fresh[name]:
            raise UserError(f"{folder}: {name} has shape {fresh[name]}; the model that is loaded has {present[name]}")
