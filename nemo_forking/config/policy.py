"""The keys of reinforcement learning: its prompts, rollouts and objective (docs/gfpo.md)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nemo_forking.config.fields import key


@dataclass(frozen=True)
class PromptsConfig:
    """`recipes/prepare_prompts.py`: the questions of reinforcement learning."""

    source: tuple[str, ...] = key("files, or the hub name of one data set")
    shape: Literal["dapo", "intellect", "plain"] = key("columns of the files (docs/rl_data.md)")
    folder: str = key("prepared folder to write, and to train from")
    templates: dict[str, str] = key("kind of answer (math, code, many_ways) -> user message, with {problem}")
    count: int | None = key("draw so many; null for all", at_least=1)
    seed: int = key("seed of that draw", at_least=0)


@dataclass(frozen=True)
class RolloutConfig:
    """What is generated and graded before an update."""

    tags: Literal["drawn", "every"] = key("drawn from the policy, or all in turn (then GFPO's gradient is exact)")
    group: int = key("G, rollouts of a question", at_least=1)
    temperature: float = key("sampling temperature of completions", above=0)
    top_p: float = key("nucleus of the sampling distribution", above=0, at_most=1)
    max_tokens: int = key("longest completion, tokens", at_least=1)
    overlong: Literal["wrong", "graded", "masked"] = key("a completion cut off is wrong, graded as is, or left out")
    reuse: int = key("batches for which a question's rewards count as its tags' rewards; 0 for its own", at_least=0)


@dataclass(frozen=True)
class PolicyConfig:
    """The objective: GFPO or GRPO."""

    scope: Literal["tag", "all"] = key("tag: the gradient is at the fork only (GFPO); all: at every token (GRPO)")
    support: Literal["tags", "vocabulary"] = key("scope tag: probabilities among the tags, or among all tokens")
    updates: int = key("optimizer steps on a batch of rollouts", at_least=1)
    advantage: Literal["none", "group", "batch"] = key("what centred rewards are divided by")
    clip_low: float = key("the ratio is clipped below 1 - clip_low", at_least=0, at_most=1)
    clip_high: float = key("the ratio is clipped above 1 + clip_high; .inf for never", at_least=0)
    kl_weight: float = key("weight of KL(policy || model.base); 0 for none", at_least=0)
    entropy_floor: float = key("scope tag: entropy of the tags, nats, below which a penalty acts", at_least=0)
    entropy_weight: float = key("weight of that penalty; 0 for none", at_least=0)
    normalise: Literal["token", "sequence", "none"] = key("scope all: how the tokens of completions add up")


@dataclass(frozen=True)
class PolicyStudyConfig:
    """Reinforcement learning in a study, from a model that a rule has trained."""

    max_steps: int = key("optimizer steps", at_least=1)
    questions: int = key("questions of a step", at_least=1)
    experiment: str | None = key(
        "experiment whose settings the policies take; null for those of the study itself", default=None
    )


@dataclass(frozen=True)
class PolicyStageConfig:
    """One reinforced model of a study."""

    name: str = key("row of the tables, and its key in results.json")
    rule: str = key("the matching rule whose model it starts from")
    scope: Literal["tag", "all"] = key("as policy.scope")
    tags: Literal["drawn", "every"] = key("as rollout.tags")
    lr: float = key("as optim.lr", above=0)
    body_lr: float = key("as optim.body_lr", default=1.0, at_least=0)
    reuse: int = key("as rollout.reuse", default=0, at_least=0)
