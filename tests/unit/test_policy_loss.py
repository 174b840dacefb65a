"""The policy objective: hand-worked clips, a dense float64 reference, finite differences."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from nemo_forking.errors import UserError
from nemo_forking.losses.normalise import completion_weight
from nemo_forking.losses.policy import Clip, expected_loss, sampled_loss
from tests.unit.fork_logits import fork_logprobs

NEVER = Clip(1.0, math.inf)
USUAL = Clip(0.2, 0.3)


def example(questions: int = 3, choices: int = 4, seed: int = 0, spread: float = 0.5) -> tuple[Tensor, ...]:
    """(logits, behaviour's logits, advantage, reference's logits), float64 [Q, N], a few ratios outside any clip."""
    random = torch.Generator().manual_seed(seed)
    logits, drift, advantage, reference = torch.randn(4, questions, choices, generator=random, dtype=torch.float64)
    return logits, logits + spread * drift, advantage, reference


def one(ratio: float, advantage: float, clip: Clip = USUAL) -> tuple[float, float, dict[str, Tensor]]:
    """(loss, its derivative by the log-probability, statistics) of one entry."""
    logprob = torch.tensor([math.log(ratio)], dtype=torch.float64, requires_grad=True)
    zero, a, w = torch.tensor([[0.0], [advantage], [1.0]], dtype=torch.float64)
    loss, statistics = sampled_loss(logprob, zero, a, w, clip=clip, denominator=1.0)
    loss.backward()
    return loss.item(), logprob.grad.item(), statistics


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient", "side"),
    [
        (1.0, 2.0, -2.0, -2.0, None),
        (1.5, 2.0, -2.6, 0.0, "clipped_high"),  # more probable already: nothing more to earn
        (0.5, 2.0, -1.0, -1.0, None),  # good and too rare: pulled back up, whatever the lower bound
        (1.5, -2.0, 3.0, 3.0, None),  # bad and too frequent: pushed down, whatever the upper bound
        (0.5, -2.0, 1.6, 0.0, "clipped_low"),
        (1.29, 2.0, -2.58, -2.58, None),
        (0.81, -2.0, 1.62, 1.62, None),
        (1.5, 0.0, 0.0, 0.0, None),
    ],
)
def test_hand_worked_clips(ratio: float, advantage: float, loss: float, gradient: float, side: str | None):
    got_loss, got_gradient, statistics = one(ratio, advantage)
    assert (got_loss, got_gradient) == (pytest.approx(loss), pytest.approx(gradient))
    assert {name: statistics[name].item() for name in ("clipped_low", "clipped_high")} == {
        name: float(name == side) for name in ("clipped_low", "clipped_high")
    }
    assert statistics["ratio"].item() == pytest.approx(ratio)
    assert statistics["kl_old"].item() == pytest.approx(ratio - 1 - math.log(ratio))


@given(st.floats(0.01, 100.0), st.floats(-3.0, 3.0))
def test_without_a_clip_the_objective_is_the_ratio_times_the_advantage(ratio: float, advantage: float):
    loss, gradient, statistics = one(ratio, advantage, NEVER)
    assert (loss, gradient) == (pytest.approx(-ratio * advantage), pytest.approx(-ratio * advantage))
    assert statistics["clipped_low"] == statistics["clipped_high"] == 0


@given(st.floats(0.01, 100.0), st.floats(-3.0, 3.0), st.floats(0.0, 1.0), st.floats(0.0, 4.0))
def test_a_clip_never_lowers_the_loss(ratio: float, advantage: float, low: float, high: float):
    assert one(ratio, advantage, Clip(low, high))[0] >= one(ratio, advantage, NEVER)[0] - 1e-12


def dense(logits_QN, old_QN, advantage_QN, reference_QN, tag_QG, kl_weight: float) -> Tensor:
    """The oracle, by other means: quotients of softmaxes, loops, comparisons. All tags where `tag_QG` is None."""
    terms = []
    for q in range(len(logits_QN)):
        p_N, old_N, reference_N = (x[q].exp() / x[q].exp().sum() for x in (logits_QN, old_QN, reference_QN))
        for n in range(len(p_N)) if tag_QG is None else tag_QG[q].tolist():
            rho, a = p_N[n] / old_N[n], advantage_QN[q, n]
            bounded = 0.8 if rho < 0.8 else 1.3 if rho > 1.3 else rho
            gain = rho * a if rho * a < bounded * a else bounded * a
            if tag_QG is None:
                terms.append(kl_weight * p_N[n] * (p_N[n] / reference_N[n]).log() - old_N[n] * gain)
            else:
                r = reference_N[n] / p_N[n]
                terms.append(kl_weight * (r - 1 - r.log()) - gain)
    return sum(terms) / (len(logits_QN) if tag_QG is None else len(terms))


def ours(logits_QN, old_QN, advantage_QN, reference_QN, tag_QG, kl_weight: float) -> Tensor:
    new_QN, old_QN, reference_QN = (x.log_softmax(-1) for x in (logits_QN, old_QN, reference_QN))
    if tag_QG is None:
        loss, statistics = expected_loss(
            new_QN, old_QN, advantage_QN, torch.ones(len(new_QN)), clip=USUAL, denominator=len(new_QN),
            reference_logprob_QN=reference_QN, kl_weight=kl_weight,
        )  # fmt: skip
    else:
        new, old, advantage, reference = (x.gather(1, tag_QG) for x in (new_QN, old_QN, advantage_QN, reference_QN))
        loss, statistics = sampled_loss(
            new, old, advantage, torch.ones_like(new), clip=USUAL, denominator=tag_QG.numel(),
            reference_logprob=reference, kl_weight=kl_weight,
        )  # fmt: skip
    assert statistics["clipped_low"] > 0 and statistics["clipped_high"] > 0  # the example reaches both bounds
    return loss


@pytest.mark.parametrize("kl_weight", [0.0, 0.7])
@pytest.mark.parametrize("mode", ["sampled", "expected"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
def test_loss_and_gradient_equal_a_dense_float64_reference(mode: str, kl_weight: float, dtype, tolerance: float):
    tag_QG = torch.randint(0, 4, (6, 5), generator=torch.Generator().manual_seed(2)) if mode == "sampled" else None
    results = []
    for function, kind in [(ours, dtype), (dense, torch.float64)]:
        logits_QN, *others = (x.to(dtype).to(kind) for x in example(questions=6, seed=1))
        loss = function(logits_QN.requires_grad_(), *others, tag_QG, kl_weight)
        loss.backward()
        assert loss.dtype == kind
        results.append((loss.detach().double(), logits_QN.grad.double()))
    torch.testing.assert_close(results[0], results[1], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("support", ["tags", "vocabulary"])
@pytest.mark.parametrize("mode", ["sampled", "expected"])
def test_finite_differences_agree_with_the_gradient(mode: str, support: str):
    logits_QV, old_QV, advantage_QV, reference_QV = example(choices=7, seed=3)
    fork_ids, tag_QG = [5, 1, 2], torch.tensor([[0, 2], [1, 1], [2, 0]])
    old_QN, reference_QN = fork_logprobs(old_QV, fork_ids, support), fork_logprobs(reference_QV, fork_ids, support)
    advantage_QN = advantage_QV[:, :3]

    def loss(logits_QV: Tensor) -> Tensor:
        new_QN = fork_logprobs(logits_QV, fork_ids, support)
        if mode == "expected":
            return expected_loss(
                new_QN, old_QN, advantage_QN, torch.ones(3), clip=USUAL, denominator=3.0,
                reference_logprob_QN=reference_QN, kl_weight=0.3,
            )[0]  # fmt: skip
        new, old, advantage, reference = (x.gather(1, tag_QG) for x in (new_QN, old_QN, advantage_QN, reference_QN))
        return sampled_loss(
            new, old, advantage, torch.ones(3, 2), clip=USUAL, denominator=6.0, reference_logprob=reference,
            kl_weight=0.3,
        )[0]  # fmt: skip

    assert torch.autograd.gradcheck(loss, logits_QV.requires_grad_())


@pytest.mark.parametrize("normalise", ["token", "sequence", "none"])
def test_packed_tokens_of_completions_add_up_as_their_normalisation_says(normalise: str):
    lengths, rollout_T = [3, 1, 4], torch.tensor([0, 0, 0, 1, 2, 2, 2, 2])
    new_T, old_T = (x.reshape(-1) for x in example(questions=2, seed=5)[:2])
    advantage_P = torch.tensor([1.0, -0.5, -2.0], dtype=torch.float64)
    entry_T = torch.stack([-min(rho * a, rho.clamp(0.8, 1.3) * a) for rho, a in
                           zip((new_T - old_T).exp(), advantage_P[rollout_T], strict=True)])  # fmt: skip
    per_rollout = [entry_T[rollout_T == p] for p in range(3)]
    wanted = {
        "token": entry_T.mean(),
        "sequence": torch.stack([x.mean() for x in per_rollout]).mean(),
        "none": torch.stack([x.sum() for x in per_rollout]).mean(),
    }
    weight_P, denominator = completion_weight(lengths, normalise)
    loss, statistics = sampled_loss(
        new_T, old_T, advantage_P[rollout_T], torch.from_numpy(weight_P)[rollout_T], clip=USUAL, denominator=denominator
    )
    torch.testing.assert_close(loss, wanted[normalise])
    assert statistics["count"] == 8


def test_clip_bounds_out_of_range_are_refused():
    for low, high in [(-0.1, 0.2), (1.1, 0.2), (0.2, -0.1), (math.nan, 0.2)]:
        with pytest.raises(UserError, match="low must be in"):
            Clip(low, high)
