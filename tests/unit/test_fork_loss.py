"""Losses at the fork: what has no gradient at all, cutting the batch into parts, and extreme logits."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from nemo_forking.losses.fork import entropy_floor_loss
from nemo_forking.losses.policy import Clip, expected_loss, sampled_loss
from nemo_forking.rl.advantage import tag_advantages
from tests.unit.fork_logits import fork_logprobs

CLIP = Clip(0.2, 0.3)
FORK_IDS = (5, 1, 2)
OTHERS = [0, 3, 4, 6]
NAN, INF = float("nan"), float("inf")


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def loss_at_fork(mode: str, logprob_QN: Tensor, old_QN: Tensor, advantage_QN: Tensor, weight_Q: Tensor, **options):
    """(loss, statistics), in mode `sampled` of every tag drawn once."""
    if mode == "expected":
        return expected_loss(logprob_QN, old_QN, advantage_QN, weight_Q, clip=CLIP, denominator=2.0, **options)
    weight_QN = weight_Q[:, None].expand_as(logprob_QN)
    options = {name.removesuffix("_QN"): value for name, value in options.items()}
    return sampled_loss(logprob_QN, old_QN, advantage_QN, weight_QN, clip=CLIP, denominator=2.0, **options)


@pytest.mark.parametrize("mode", ["sampled", "expected"])
@pytest.mark.parametrize("support", ["tags", "vocabulary"])
def test_other_tokens_are_pushed_on_the_support_of_the_vocabulary_alone(mode: str, support: str):
    logits_QV = normal(2, 7).requires_grad_()
    logprob_QN = fork_logprobs(logits_QV, FORK_IDS, support)
    loss, _ = loss_at_fork(mode, logprob_QN, logprob_QN.detach(), normal(2, 3, seed=1), torch.ones(2))
    loss.backward()
    assert logits_QV.grad[:, list(FORK_IDS)].all()
    assert logits_QV.grad[:, OTHERS].any() == (support == "vocabulary")
    assert logits_QV.grad.sum(-1).tolist() == pytest.approx([0.0, 0.0], abs=1e-12)


def test_the_exact_gradient_leaves_other_tokens_alone_where_advantages_are_centred():
    logits_QV = normal(2, 7).requires_grad_()
    logprob_QN = fork_logprobs(logits_QV, FORK_IDS, "vocabulary")
    advantages = tag_advantages(normal(2, 3, seed=1).numpy(), logprob_QN.detach().exp().numpy())
    advantage_QN = torch.from_numpy(advantages.value)
    loss, _ = loss_at_fork("expected", logprob_QN, logprob_QN.detach(), advantage_QN, torch.ones(2))
    loss.backward()
    assert logits_QV.grad[:, list(FORK_IDS)].all()
    torch.testing.assert_close(logits_QV.grad[:, OTHERS], torch.zeros(2, 4, dtype=torch.float64), atol=1e-15, rtol=0)


@pytest.mark.parametrize("mode", ["sampled", "expected"])
def test_nothing_before_or_after_the_fork_gets_a_gradient(mode: str):
    logits_QTV = normal(2, 9, 7).requires_grad_()
    logprob_QN = fork_logprobs(logits_QTV[:, 4], FORK_IDS, "vocabulary")
    loss_at_fork(mode, logprob_QN, logprob_QN.detach(), normal(2, 3, seed=1), torch.ones(2))[0].backward()
    assert logits_QTV.grad[:, 4].any()
    assert not logits_QTV.grad[:, [0, 1, 2, 3, 5, 6, 7, 8]].any()


@pytest.mark.parametrize("mode", ["sampled", "expected"])
@pytest.mark.parametrize("junk", [NAN, INF, -INF, 1e30])
def test_what_weighs_nothing_adds_nothing_whatever_it_holds(mode: str, junk: float):
    options = {"reference_logprob_QN": normal(2, 3, seed=4).log_softmax(-1), "kl_weight": 0.5}
    tensors = [normal(2, 3).log_softmax(-1), normal(2, 3, seed=1).log_softmax(-1), normal(2, 3, seed=2)]
    alone, with_junk = [], []
    for results, keep in [(alone, slice(0, 1)), (with_junk, slice(0, 2))]:
        parts = [x.clone() for x in (*tensors, options["reference_logprob_QN"])]
        for x in parts:
            x[1] = junk
        logprob_QN, *rest, reference_QN = (x[keep] for x in parts)
        weight_Q = torch.tensor([1.0, 0.0])[keep]
        logprob_QN.requires_grad_()
        loss, statistics = loss_at_fork(
            mode, logprob_QN, *rest, weight_Q, reference_logprob_QN=reference_QN, kl_weight=0.5
        )
        floor = entropy_floor_loss(logprob_QN, weight_Q, floor=1.0, strength=1.0, denominator=2.0)
        (loss + floor).backward()
        results += [loss.detach(), floor.detach(), logprob_QN.grad[:1], statistics]
        assert not logprob_QN.grad[1:].any()
    torch.testing.assert_close(with_junk, alone, rtol=0, atol=0)


@pytest.mark.parametrize("mode", ["sampled", "expected"])
def test_a_group_of_equal_rewards_has_a_gradient_of_exactly_zero_also_where_it_is_not_skipped(mode: str):
    logits_QN = normal(2, 3).requires_grad_()
    old_QN = normal(2, 3, seed=1).log_softmax(-1)
    loss, statistics = loss_at_fork(mode, logits_QN.log_softmax(-1), old_QN, torch.zeros(2, 3), torch.ones(2))
    loss.backward()
    assert loss == 0 and not logits_QN.grad.any()
    assert statistics["clipped_low"] == statistics["clipped_high"] == 0


@given(st.lists(st.integers(0, 3), min_size=12, max_size=12), st.sampled_from(["sampled", "expected"]))
def test_micro_batches_add_up_to_the_batch_however_it_is_cut(part_Q: list[int], mode: str):
    logits_QN, old_QN, advantage_QN, reference_QN = (normal(12, 3, seed=seed) for seed in range(4))
    old_QN, reference_QN, weight_Q = old_QN.log_softmax(-1), reference_QN.log_softmax(-1), torch.arange(12) % 3 * 0.5

    def results(rows: Tensor) -> dict[str, Tensor]:
        logits = logits_QN[rows].requires_grad_()
        logprob_QN, weight = logits.log_softmax(-1), weight_Q[rows]
        loss, statistics = loss_at_fork(
            mode, logprob_QN, old_QN[rows], advantage_QN[rows], weight,
            reference_logprob_QN=reference_QN[rows], kl_weight=0.3,
        )  # fmt: skip
        loss = loss + entropy_floor_loss(logprob_QN, weight, floor=1.0, strength=0.5, denominator=2.0)
        loss.backward()
        gradient_QN = torch.zeros(12, 3, dtype=torch.float64).index_copy(0, rows, logits.grad)
        return {"loss": loss.detach(), "gradient": gradient_QN, **statistics}

    parts = [results(torch.tensor([q for q in range(12) if part_Q[q] == part], dtype=torch.int64)) for part in range(4)]
    for name, value in results(torch.arange(12)).items():
        torch.testing.assert_close(sum(part[name] for part in parts), value, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("mode", ["sampled", "expected"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [1e2, 1e4, 3e38, INF])
def test_extreme_logits_give_finite_losses_and_gradients(mode: str, dtype: torch.dtype, size: float):
    logits_QV = torch.tensor([[0.0, size, 0.0, -INF, 0.0, -size, 0.0], [0.0, -size, 1.0, -INF, 0.0, size, 0.0]])
    if size == INF:  # a tag that can never be drawn
        logits_QV = logits_QV.nan_to_num(posinf=0.0, neginf=-INF)
    old_QV = logits_QV.flip(0)
    for support in ("tags", "vocabulary"):
        logits = logits_QV.to(dtype).requires_grad_()
        logprob_QN, old_QN = (fork_logprobs(x, FORK_IDS, support) for x in (logits, old_QV))
        possible_QN = old_QN > -INF if mode == "sampled" else torch.ones_like(old_QN, dtype=torch.bool)
        advantage_QN = torch.tensor([[1.0, -1.0, 0.5], [-1.0, 1.0, -0.5]]) * possible_QN
        loss, statistics = loss_at_fork(
            mode, logprob_QN, old_QN.where(possible_QN, 0.0), advantage_QN, torch.ones(2),
            reference_logprob_QN=old_QN, kl_weight=0.1,
        )  # fmt: skip
        loss = loss + entropy_floor_loss(logprob_QN, torch.ones(2), floor=1.0, strength=1.0, denominator=2.0)
        loss.backward()
        assert loss.isfinite() and logits.grad.isfinite().all()
        assert all(value.isfinite() for value in statistics.values()), statistics


def test_a_tag_that_nobody_can_draw_is_as_good_as_absent():
    logits_QN, old_QN, advantage_QN, reference_QN = (normal(2, 3, seed=seed) for seed in range(4))
    results = []
    for width in (2, 3):
        parts = [x[:, :width].clone() for x in (logits_QN, old_QN, reference_QN)]
        for x in parts:
            x[:, 2:] = -INF
        logits = parts[0].requires_grad_()
        new_QN, old, reference = (x.log_softmax(-1) for x in parts)
        loss, statistics = loss_at_fork(
            "expected",
            new_QN,
            old,
            advantage_QN[:, :width],
            torch.ones(2),
            reference_logprob_QN=reference,
            kl_weight=1.0,
        )
        loss.backward()
        assert not logits.grad[:, 2:].any()
        results.append([loss.detach(), logits.grad[:, :2], statistics])
    torch.testing.assert_close(results[0], results[1])


@pytest.mark.parametrize("mode", ["sampled", "expected"])
def test_gradients_flow_into_the_policy_alone(mode: str):
    policy_QN, *others = (normal(2, 3, seed=seed).requires_grad_() for seed in range(4))
    old_QN, advantage_QN, reference_QN = others
    loss, statistics = loss_at_fork(
        mode, policy_QN, old_QN, advantage_QN, torch.ones(2), reference_logprob_QN=reference_QN, kl_weight=1.0
    )
    loss.backward()
    assert policy_QN.grad.any()
    assert all(tensor.grad is None for tensor in others)
    assert not any(value.requires_grad for value in statistics.values())
