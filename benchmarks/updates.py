"""Four ways through one policy update, forward and backward: GFPO's and GRPO's, each as the project does and plainly.

All leave the gradient of their loss in `.grad`; none steps an optimizer, whose work is the same after either. The
policy is the one that made the rollouts, so every ratio is 1.

Shape letters: Q questions, N tags, G rollouts of a question, B batch, T time, V vocabulary.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.models import Size, read
from benchmarks.steps import forward_backward, packs
from nemo_forking.config.policy import PolicyConfig
from nemo_forking.data.batches import Layout, deal
from nemo_forking.plan.flops import step_flops
from nemo_forking.rl.advantage import EPS
from nemo_forking.rl.batches import Batch
from nemo_forking.rl.rollout import every_tag
from nemo_forking.rl.update import Update, tag_update, token_update
from nemo_forking.tags import Tags
from nemo_forking.training.fork import tag_logprobs
from nemo_forking.training.passes import make_pass

CLIP = 0.2


@dataclass(frozen=True)
class Rollouts:
    """What both methods learn from.

    Attributes:
        prompts: ids of every question.
        completions: ids behind the tag, [Q][G].
        tags: the tags, of one id each.
        batch: tags, rewards and the policy's log-probabilities.
    """

    prompts: list[np.ndarray]
    completions: list[list[np.ndarray]]
    tags: Tags
    batch: Batch


def random_rollouts(
    model: nn.Module, prompts: list[np.ndarray], tags: Tags, rollouts: int, tokens: int, seed: int
) -> Rollouts:
    """G completions of random tokens a question; at least one of them is right, and one wrong.

    The tags are every tag in turn, so that both of GFPO's objectives can be taken of the same rollouts.
    """
    random, shape = np.random.default_rng(seed), (len(prompts), rollouts)
    right_Q = random.integers(1, rollouts, len(prompts))
    reward_QG = random.permuted(np.arange(rollouts) < right_Q[:, None], axis=1).astype(np.float64)
    logprob_QN = tag_logprobs([model], prompts, tags, packs(max(map(len, prompts))))
    batch = Batch(
        questions=[f"q{q}" for q in range(len(prompts))],
        kinds=["random"] * len(prompts),
        logprob_QN=logprob_QN,
        behaviour_QN=logprob_QN,
        tag_QG=every_tag(len(prompts), tags.count, rollouts),
        reward_QG=reward_QG,
        counted_QG=np.ones(shape, bool),
        tokens_QG=np.full(shape, tokens),
        cut_QG=np.zeros(shape, bool),
        drawn_at_Q=np.zeros(len(prompts), np.int64),
    )
    completions = [[random.integers(0, min(tags.fork_ids), tokens) for _ in range(rollouts)] for _ in prompts]
    return Rollouts(prompts, completions, tags, batch)


# ---------------------------------------------------------------- as the project does


def gfpo(given: Rollouts, every: bool) -> Update:
    """GFPO's rows and objective: of the drawn tags, or of the expectation over every tag."""
    return tag_update(_policy("tag"), given.batch, given.prompts, given.tags, number=0, every=every)


def grpo(given: Rollouts) -> Update:
    """GRPO's rows and objective."""
    return token_update(_policy("all"), given.batch, given.prompts, given.completions, given.tags)


def ours(model: nn.Module, update: Update, pack: int | None, recompute: str = "none") -> None:
    """One pass of Megatron's schedule over packed micro-batches, head on label rows in chunks.

    Args:
        model: the Megatron model.
        update: rows and objective.
        pack: tokens of a micro-batch; None for as many as the longest row has.
        recompute: as layout.recompute has it.
    """
    model.zero_grad(set_to_none=False)
    share = make_pass(update.rows, _layout(update, pack))
    forward_backward(model, share, lambda *given: update.objective(*given)[0], recompute)


# ---------------------------------------------------------------- plainly


def plain_gfpo(model: nn.Module, given: Rollouts, every: bool) -> None:
    """GFPO on a Hugging Face model: a question at a time, its prompt alone, logits at the fork."""
    model.zero_grad(set_to_none=False)
    for q, prompt in enumerate(given.prompts):
        ids_1T, tag_G, reward_G = _on(model, prompt[None], given.batch.tag_QG[q], given.batch.reward_QG[q])
        logit_V = read(model, ids_1T, logits_to_keep=1).logits[0, -1]
        logprob_N = logit_V[list(given.tags.fork_ids)].float().log_softmax(-1)
        p_N = logprob_N.detach().exp()
        if every:
            reward_N = torch.stack([reward_G[tag_G == n].mean() for n in range(given.tags.count)])
            centred_N = reward_N - (p_N * reward_N).sum()
            advantage_N = centred_N / ((p_N * centred_N**2).sum().sqrt() + EPS)
            loss = -(p_N * advantage_N * logprob_N).sum()
        else:
            loss = -_clipped_gain(logprob_N[tag_G], _advantage(reward_G)).mean()
        (loss / len(given.prompts)).backward()


def plain_grpo(model: nn.Module, given: Rollouts, rows: int) -> None:
    """GRPO on a Hugging Face model: `rows` padded rollouts of a question at a time, logits of every position."""
    model.zero_grad(set_to_none=False)
    counted = sum(1 + len(ids) for of_question in given.completions for ids in of_question)  # the tag counts
    for q, prompt in enumerate(given.prompts):
        ids_GT, reward_G = _on(model, _padded(given, q), given.batch.reward_QG[q])
        first, end_G = len(prompt), [len(prompt) + 1 + len(ids) for ids in given.completions[q]]
        place_T, end_G = torch.arange(1, ids_GT.size(1), device=ids_GT.device), ids_GT.new_tensor(end_G)
        counted_GT = (place_T >= first) & (place_T < end_G[:, None])
        for ids_BT, counted_BT, advantage_B in zip(
            *(table.split(rows) for table in (ids_GT, counted_GT, _advantage(reward_G))), strict=True
        ):
            logits_BTV = read(model, ids_BT[:, :-1]).logits.float()
            nll_BT = F.cross_entropy(logits_BTV.flatten(0, 1), ids_BT[:, 1:].flatten(), reduction="none")
            gain_BT = _clipped_gain(-nll_BT.view_as(counted_BT), advantage_B[:, None])
            (-(gain_BT * counted_BT).sum() / counted).backward()


def _clipped_gain(logprob: Tensor, advantage: Tensor) -> Tensor:
    ratio = (logprob - logprob.detach()).exp()
    return torch.min(ratio * advantage, ratio.clamp(1 - CLIP, 1 + CLIP) * advantage)


def _advantage(reward_G: Tensor) -> Tensor:
    return (reward_G - reward_G.mean()) / (reward_G.std(correction=0) + EPS)


def _padded(given: Rollouts, q: int) -> np.ndarray:
    """Prompt, tag and completion of a question's rollouts [G, T], padded on the right."""
    tags = [given.tags.ids_NK[tag] for tag in given.batch.tag_QG[q]]
    rows = [np.concatenate([given.prompts[q], *pair]) for pair in zip(tags, given.completions[q], strict=True)]
    ids_GT = np.zeros((len(rows), max(map(len, rows))), np.int64)
    for row, ids in zip(ids_GT, rows, strict=True):
        row[: len(ids)] = ids
    return ids_GT


def _on(model: nn.Module, *arrays: np.ndarray) -> list[Tensor]:
    return [torch.from_numpy(array).to(model.device) for array in arrays]


# ---------------------------------------------------------------- what there is to do


def work(given: Rollouts, fork: Update, everywhere: Update, rooms: tuple[int | None, int | None], rows: int) -> dict:
    """Positions that each way sends through the layers in all, in one micro-batch, and through the head."""
    gfpo, grpo = (_work(update, pack) for update, pack in zip((fork, everywhere), rooms, strict=True))
    lengths = [len(prompt) for prompt in given.prompts]
    padded = [_padded(given, q)[:, 1:].shape for q in range(len(given.prompts))]
    total = sum(math.prod(shape) for shape in padded)
    plain_gfpo = {"tokens": sum(lengths), "at_once": max(lengths), "head_tokens": len(lengths)}
    plain_grpo = {"tokens": total, "at_once": max(min(g, rows) * t for g, t in padded), "head_tokens": total}
    return {
        "plain_gfpo": plain_gfpo,
        "gfpo": gfpo,
        "plain_gfpo_every": plain_gfpo,
        "gfpo_every": gfpo,
        "plain_grpo": plain_grpo,
        "grpo": grpo,
        "grpo_recompute": grpo,
    }


def _work(update: Update, pack: int | None) -> dict[str, int]:
    plan = deal([row.length for row in update.rows], _layout(update, pack))
    return {
        "tokens": sum(plan.times[0]),
        "at_once": plan.time,
        "head_tokens": sum(row.counted for row in update.rows),
    }


def arithmetic(size: Size, fork: Update, everywhere: Update) -> dict[str, float]:
    """How many times more GRPO's update has to do, by count: tokens read, and multiplications of the model."""
    model = size.model_config()
    return {
        "tokens": sum(row.length for row in everywhere.rows) / sum(row.length for row in fork.rows),
        "operations": step_flops(model, [], everywhere.rows) / step_flops(model, [], fork.rows),
    }


def _policy(scope: str) -> PolicyConfig:
    return PolicyConfig(
        scope=scope,
        support="tags",
        updates=1,
        advantage="group",
        clip_low=CLIP,
        clip_high=CLIP,
        kl_weight=0.0,
        entropy_floor=0.0,
        entropy_weight=0.0,
        normalise="token",
    )


def _layout(update: Update, pack: int | None) -> Layout:
    return packs(pack or max(row.length for row in update.rows))
