"""The distribution over the tags: entropy and its floor, divergence."""

import math

import pytest
import torch
from torch import Tensor

from nemo_forking.errors import UserError
from nemo_forking.losses.fork import divergence, entropy_floor_loss, tag_entropy


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_divergence_and_entropy_agree_with_torch():
    p_QN, q_QN = normal(5, 4).log_softmax(-1), normal(5, 4, seed=1).log_softmax(-1)
    kl_Q = torch.nn.functional.kl_div(q_QN, p_QN, log_target=True, reduction="none").sum(-1)
    torch.testing.assert_close(divergence(p_QN, q_QN).sum(-1), kl_Q)
    assert (divergence(p_QN - 1.0, q_QN) >= 0).all()  # also of distributions that do not sum to 1
    torch.testing.assert_close(tag_entropy(p_QN - 3.0), torch.distributions.Categorical(logits=p_QN).entropy())


def test_the_entropy_floor_acts_below_it_only():
    logits_QN = torch.tensor([[0.0, 0.1, 0.0], [4.0, 0.0, 0.0]], dtype=torch.float64, requires_grad=True)
    loss = entropy_floor_loss(logits_QN, torch.ones(2), floor=0.9, strength=2.0, denominator=4.0)
    loss.backward()
    assert loss.item() == pytest.approx(2.0 * (0.9 - tag_entropy(logits_QN)[1].item()) / 4.0)
    assert not logits_QN.grad[0].any()
    assert logits_QN.grad[1, 0] > 0 > logits_QN.grad[1, 1]  # descent flattens the narrow one
    assert torch.autograd.gradcheck(
        lambda x: entropy_floor_loss(x, torch.ones(2), floor=0.9, strength=2.0, denominator=4.0), (logits_QN,)
    )
    for floor in (-0.1, math.log(3), math.nan):
        with pytest.raises(UserError, match="at least 0 and below log 3"):
            entropy_floor_loss(logits_QN, torch.ones(2), floor=floor, strength=1.0, denominator=1.0)
