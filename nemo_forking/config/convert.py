"""The configuration of `recipes/convert.py`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nemo_forking.config.fields import key


@dataclass(frozen=True)
class ConvertConfig:
    """Weights from one folder into another."""

    source: str | None = key("Hugging Face folder, Megatron checkpoint, or a run's (runs/x/checkpoints/step_<n>)")
    to: Literal["huggingface", "megatron"] = key("what is written: a Hugging Face folder or a Megatron checkpoint")
    folder: str = key("folder that is written")
    tags: bool = key("a Hugging Face source gets the tags' rows, and its tokenizer the tags")
    shard_gb: float = key("largest safetensors file, GB of tensors", above=0)
    verify: bool = key("every written tensor is read again and compared with the source's, bit for bit")
    verify_logits: bool = key(
        "logits of the result against transformers' of the source, on a few tokens", default=False
    )
