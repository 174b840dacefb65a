"""The distribution over the tags at the fork: entropy and divergence.

Shape letters: Q questions, N tags.
"""

import math

import torch
from torch import Tensor

from nemo_forking.errors import UserError

LOG_RATIO_LIMIT = 20.0
"""Log-ratios are held within this size (ratios of 5e8), without a gradient beyond: what keeps every loss finite."""


def tag_entropy(logprob_QN: Tensor) -> Tensor:
    """Entropy (nats) of every question's distribution among the tags, whatever the support; log N at most."""
    logprob_QN = wide(logprob_QN).log_softmax(-1)
    impossible_QN = logprob_QN == -torch.inf
    return -(logprob_QN.exp() * logprob_QN.masked_fill(impossible_QN, 0.0)).sum(-1)


def entropy_floor_loss(
    logprob_QN: Tensor, weight_Q: Tensor, *, floor: float, strength: float, denominator: float
) -> Tensor:
    """A penalty on tag distributions narrower than `floor` nats: exactly 0, gradient included, for all others.

    The sum of weight * strength * max(0, floor - entropy) / denominator. It keeps a collapse from happening; it does
    not undo one, since the entropy of a distribution that is all on one tag has no gradient.

    Raises:
        UserError: a floor no distribution over N tags reaches.
    """
    if not 0 <= floor < math.log(logprob_QN.shape[-1]):
        n_tags = logprob_QN.shape[-1]
        raise UserError(f"the entropy floor is {floor} nats; it must be at least 0 and below log {n_tags}")
    counted_Q = weight_Q != 0
    missing_Q = (floor - tag_entropy(counted(logprob_QN, counted_Q[:, None]))).clamp(min=0.0)
    return strength * (wide(weight_Q) * counted(missing_Q, counted_Q)).sum() / denominator


def divergence(logprob_QN: Tensor, other_QN: Tensor) -> Tensor:
    """What every tag adds to KL(p || other): p log(p / other) - p + other, which is never negative.

    Summed over the tags it is the KL where both distributions sum to 1. It is also the expectation under p of the k3
    estimator of `policy.sampled_loss`. Log-ratios are held at `LOG_RATIO_LIMIT`.
    """
    logprob_QN, other_QN = wide(logprob_QN), wide(other_QN)
    p_QN = logprob_QN.exp()
    impossible_QN = logprob_QN == -torch.inf  # adds `other` alone
    log_ratio_QN = held(logprob_QN.masked_fill(impossible_QN, 0.0) - other_QN.masked_fill(impossible_QN, 0.0))
    return p_QN * log_ratio_QN - p_QN + other_QN.exp()


def held(log_ratio: Tensor) -> Tensor:
    """Log-ratios within `LOG_RATIO_LIMIT`."""
    return log_ratio.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)


def counted(value: Tensor, counts: Tensor) -> Tensor:
    """The value where it counts, and 0 elsewhere, gradient included, whatever stands there; float32 or better."""
    value = wide(value)
    return torch.where(counts, value, torch.zeros_like(value))


def wide(value: Tensor) -> Tensor:
    """float32, or float64 as it is: differences of log-probabilities drown in bfloat16."""
    return value.to(torch.promote_types(value.dtype, torch.float32))
