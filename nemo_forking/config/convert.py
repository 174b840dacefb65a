"""The configuration of `recipes/convert.py`."""

from __future__ import annotations

from dataclasses import dataclass

from nemo_forking.config.fields import key


@dataclass(frozen=True)
class ConvertConfig:
    """Weights from one folder into another."""

    source: str | None = key("Hugging Face folder, or a checkpoint of a run (runs/x/checkpoints/step_0000100)")
    folder: str = key("Hugging Face folder that is written")
    tags: bool = key("a Hugging Face source gets the tags' rows, and its tokenizer the tags")
    shard_gb: float = key("largest safetensors file, GB of tensors", above=0)
    verify: bool = key("every written tensor is read again and compared with the source's, bit for bit")
