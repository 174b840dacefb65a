"""The objective of GFPO and GRPO: a clipped importance ratio times an advantage (paper section 7; docs/gfpo.md).

Shape letters: Q questions, N tags, G rollouts, T tokens.

GFPO's ratio is that of the tag alone, and nothing is divided by the length of what follows it; GRPO's is that of every
token. Both are `sampled_loss`, on other tensors. Where every tag was tried, `expected_loss` takes the expectation over
the tags in place of draws.

Losses and statistics are sums, never means: the loss is over a denominator of the whole batch, known before the first
micro-batch (`normalise.completion_weight`). So however the batch is cut into micro-batches and ranks, the parts add up
to the same. All is float32 or better inside.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from nemo_forking.errors import UserError
from nemo_forking.losses.fork import counted, divergence, held


@dataclass(frozen=True)
class Clip:
    """Bounds of the ratio, 1 - low to 1 + high; past them an entry gains nothing more. `Clip(1, inf)` never clips."""

    low: float
    high: float

    def __post_init__(self):
        if not (0 <= self.low <= 1 and self.high >= 0):
            raise UserError(f"the clip is low {self.low}, high {self.high}; low must be in [0, 1], high at least 0")


def sampled_loss(
    logprob: Tensor,
    old_logprob: Tensor,
    advantage: Tensor,
    weight: Tensor,
    *,
    clip: Clip,
    denominator: float,
    reference_logprob: Tensor | None = None,
    kl_weight: float = 0.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Sum of weight * (kl_weight * k3 - min(rho A, clip(rho) A)) / denominator over what was drawn.

    The entries are drawn tags [Q, G], or tokens [T] of packed completions; every tensor has their shape.
    k3 = r - 1 - log r, where r = reference / policy: never negative, and on average over draws from the policy it is
    KL(policy || reference). The average of its gradient is that of KL(reference || policy), as in GRPO.

    Args:
        logprob: the policy's log-probability of every entry; gradients flow here alone.
        old_logprob: the one it was drawn with.
        advantage: of every entry.
        weight: of every entry; 0 leaves it out, whatever the other tensors hold there (NaN too).
        clip: bounds of the ratio rho = policy / old.
        denominator: of the whole batch, not of this part of it.
        reference_logprob: the reference's; without it there is no KL.
        kl_weight: of the KL to the reference.

    Returns:
        (loss, statistics). Statistics are sums over entries of non-zero weight, to be added up over micro-batches and
        ranks and divided by `count`: `clipped_low` and `clipped_high`, entries the clip has taken the gradient from;
        `ratio`; `kl_old`, the k3 estimate of KL(old || policy); and, with a reference, `kl_reference`, k3.
    """
    counts = weight != 0
    logprob, advantage, weight = counted(logprob, counts), counted(advantage, counts), counted(weight, counts)
    log_ratio = held(logprob - counted(old_logprob, counts).detach())
    gain, low, high = _clipped(log_ratio, advantage.detach(), clip)
    cost = -gain
    statistics = {
        "count": counts,
        "clipped_low": low,
        "clipped_high": high,
        "ratio": counted(log_ratio.exp(), counts),
        "kl_old": _k3(log_ratio),
    }
    if reference_logprob is not None:
        k3 = _k3(held(counted(reference_logprob, counts).detach() - logprob))
        cost = cost + kl_weight * k3
        statistics["kl_reference"] = k3
    return (weight * cost).sum() / denominator, _sums(statistics)


def expected_loss(
    logprob_QN: Tensor,
    old_logprob_QN: Tensor,
    advantage_QN: Tensor,
    weight_Q: Tensor,
    *,
    clip: Clip,
    denominator: float,
    reference_logprob_QN: Tensor | None = None,
    kl_weight: float = 0.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The expectation of `sampled_loss` over the tags: the sum over N of -p_old min(rho A, clip(rho) A), without draws.

    At rho = 1 its gradient is the policy gradient exactly. KL(policy || reference) is exact too, gradient included
    (`fork.divergence`).

    Args:
        logprob_QN: the policy's log-probability of every tag; gradients flow here alone.
        old_logprob_QN: the behaviour's; a tag of probability 0 (-inf) adds nothing.
        advantage_QN: of every tag (`rl.advantage.tag_advantages`).
        weight_Q: of every question; 0 leaves it out, whatever the other tensors hold there (NaN too).
        clip: as in `sampled_loss`.
        denominator: of the whole batch; the number of its questions where their weights are 1.
        reference_logprob_QN: the reference's; without it there is no KL.
        kl_weight: of the KL to the reference.

    Returns:
        (loss, statistics), as `sampled_loss` does, with expectations over the old policy's tags in place of draws;
        `count` counts questions.
    """
    counts_Q1 = (weight_Q != 0)[:, None]
    logprob_QN, advantage_QN = counted(logprob_QN, counts_Q1), counted(advantage_QN, counts_Q1).detach()
    old_QN = counted(old_logprob_QN, counts_Q1).detach()
    p_old_QN = counted(old_QN.exp(), counts_Q1)
    possible_QN = p_old_QN > 0
    log_ratio_QN = held(counted(logprob_QN, possible_QN) - counted(old_QN, possible_QN))
    gain_QN, low_QN, high_QN = _clipped(log_ratio_QN, advantage_QN, clip)
    cost_QN = -p_old_QN * gain_QN
    share_QN = p_old_QN / p_old_QN.sum(-1, keepdim=True).clamp(min=torch.finfo(p_old_QN.dtype).tiny)
    statistics = {
        "count": counts_Q1,
        "clipped_low": share_QN * low_QN,
        "clipped_high": share_QN * high_QN,
        "ratio": share_QN * log_ratio_QN.exp(),
        "kl_old": counted(divergence(old_QN, logprob_QN), counts_Q1),
    }
    if reference_logprob_QN is not None:
        reference_QN = counted(reference_logprob_QN, counts_Q1).detach()
        kl_QN = counted(divergence(logprob_QN, reference_QN), counts_Q1)
        cost_QN = cost_QN + kl_weight * kl_QN
        statistics["kl_reference"] = kl_QN
    return (counted(weight_Q, weight_Q != 0)[:, None] * cost_QN).sum() / denominator, _sums(statistics)


def _clipped(log_ratio: Tensor, advantage: Tensor, clip: Clip) -> tuple[Tensor, Tensor, Tensor]:
    """min(rho A, clip(rho) A), and where the lower and the upper bound decide it (there it has no gradient)."""
    ratio = log_ratio.exp()
    low = (advantage < 0) & (ratio < 1 - clip.low)
    high = (advantage > 0) & (ratio > 1 + clip.high)
    bound = ratio.detach().clamp(1 - clip.low, 1 + clip.high)
    return torch.where(low | high, bound, ratio) * advantage, low, high


def _k3(log_ratio: Tensor) -> Tensor:
    """What a draw says of KL(drawn-from || other): r - 1 - log r, with r = other / drawn-from."""
    return log_ratio.expm1() - log_ratio


def _sums(statistics: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().double().sum() for name, value in statistics.items()}
