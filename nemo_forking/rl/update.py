"""What a batch of rollouts teaches: the rows of an update, and its objective.

Every rank makes the same of the same tables, so all leave out the same questions without being told.

Shape letters: Q questions, N tags, G rollouts of a question, R rollouts of the batch, one question after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from nemo_forking.config.policy import PolicyConfig
from nemo_forking.data.batches import Row
from nemo_forking.rl.advantage import Advantages, group_advantages, tag_advantages, tag_means
from nemo_forking.rl.batches import Batch, tag_probabilities
from nemo_forking.rl.objective import TagObjective, TokenObjective
from nemo_forking.rl.rows import fork_rows, rollout_rows, weighted
from nemo_forking.tags import Tags


@dataclass(frozen=True)
class Update:
    """Rows to train on, and what to do with them.

    Attributes:
        rows: those with a gradient; one without, where none has one, so that no rank is left without a pass.
        objective: of their micro-batches.
        skipped: questions whose rewards are all alike.
    """

    rows: list[Row]
    objective: TagObjective | TokenObjective
    skipped: int


def tag_update(
    policy: PolicyConfig,
    batch: Batch,
    prompts: Sequence[np.ndarray],
    tags: Tags,
    *,
    number: int,
    every: bool,
    reference_QN: np.ndarray | None = None,
) -> Update:
    """GFPO's: prompts up to the fork.

    Args:
        policy: the objective's settings.
        batch: the rollouts.
        prompts: ids of the batch's questions.
        tags: the tags.
        number: of the batch; questions drawn in it were drawn by the present policy.
        every: every tag was tried, so that the loss is the expectation over them; else tags were drawn.
        reference_QN: the reference's log-probabilities of the tags over the whole vocabulary; None without KL.
    """
    if every:
        reward_QN, tried_QN = tag_means(batch.reward_QG, batch.tag_QG, tags.count, batch.counted_QG)
        advantages = tag_advantages(reward_QN, tag_probabilities(batch.logprob_QN), tried_QN, scale=policy.advantage)
        objective = TagObjective(
            policy,
            batch.logprob_QN,
            advantages.value,
            denominator=float(len(prompts)),
            fresh_Q=np.ones(len(prompts), dtype=bool),
            reference_QN=reference_QN,
        )
    else:
        advantages = group_advantages(batch.reward_QG, batch.counted_QG, scale=policy.advantage)
        objective = TagObjective(
            policy,
            batch.behaviour_QN,
            advantages.value,
            denominator=max(float(batch.counted_QG.sum()), 1.0),
            fresh_Q=batch.drawn_at_Q == number,
            tag_QG=batch.tag_QG,
            counted_QG=batch.counted_QG,
            reference_QN=reference_QN,
        )
    regularised = policy.kl_weight or policy.entropy_weight
    taught = np.flatnonzero(advantages.kept_Q | bool(regularised))
    rows = fork_rows({int(place): prompts[place] for place in taught} or {0: prompts[0]}, tags)
    return Update(rows, objective, advantages.skipped)


def token_update(
    policy: PolicyConfig,
    batch: Batch,
    prompts: Sequence[np.ndarray],
    completions: Sequence[Sequence[Sequence[int]]],
    tags: Tags,
) -> Update:
    """GRPO's: whole rollouts.

    Args:
        policy: the objective's settings.
        batch: the rollouts.
        prompts: ids of the batch's questions.
        completions: ids behind the tag, [Q][G].
        tags: the tags.
    """
    advantages: Advantages = group_advantages(batch.reward_QG, batch.counted_QG, scale=policy.advantage)
    group = batch.tag_QG.shape[1]
    rows = rollout_rows(
        [prompt for prompt in prompts for _ in range(group)],
        batch.tag_QG.ravel(),
        [ids for of_question in completions for ids in of_question],
        tags,
    )
    counted_R = batch.counted_QG.ravel()
    if not counted_R.any():  # all were left out: a pass that teaches nothing
        silent = replace(rows[0], weight=0.0)
        return Update([silent], TokenObjective(policy, np.zeros(len(rows)), 1.0), advantages.skipped)
    rows, denominator = weighted(rows, counted_R, policy.normalise)
    taught_R = counted_R & (np.repeat(advantages.kept_Q, group) | bool(policy.kl_weight))
    objective = TokenObjective(policy, advantages.value.ravel(), denominator)
    return Update([rows[r] for r in np.flatnonzero(taught_R)] or rows[:1], objective, advantages.skipped)
