"""What runs leave in their folders, read to be compared. Needs no NeMo."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from nemo_forking.training.metrics import OF_THE_MACHINE


def lines(file: Path) -> list[dict]:
    """The objects of a file of JSON lines."""
    return [json.loads(line) for line in file.read_text().splitlines()]


def records(run: Path | str) -> list[dict]:
    """The lines of a run's metrics.jsonl without what was measured of the machine."""
    found = lines(Path(run) / "metrics.jsonl")
    return [{key: value for key, value in line.items() if key not in OF_THE_MACHINE} for line in found]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a Hugging Face folder."""
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def assert_same_weights(got: Path, wanted: Path, *, rtol: float = 0.0, atol: float = 0.0) -> None:
    """Two Hugging Face folders hold tensors of the same names, types and shapes: bit for bit, or so near."""
    torch.testing.assert_close(weights(got), weights(wanted), rtol=rtol, atol=atol)
