"""The keys of `recipes/plan.py`: what a plan cannot know from the other blocks (docs/plan.md)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nemo_forking.config.fields import key


@dataclass(frozen=True)
class PlanConfig:
    """`recipes/plan.py`: what is assumed before anything has run."""

    recipe: Literal["ssft", "gfpo"] = key("the recipe that is planned")
    efficiency: float = key("share of layout.peak_tflops at which a busy GPU computes", above=0, at_most=1)
    reserve_gib: float = key("memory kept free for CUDA, NCCL and fragmentation, GiB", at_least=0)
    prompt_tokens: int = key("mean prompt, tokens; taken where data.folder is not prepared yet", at_least=1)
    trace_tokens: int = key("mean trace, tokens; taken where data.folder is not prepared yet", at_least=1)
    completion_tokens: int = key("mean completion of a rollout, tokens", at_least=1)
    measured: str | None = key(
        "metrics.jsonl of a run on such GPUs, whose speed is taken in place of plan.efficiency", default=None
    )
