"""What a batch of rollouts teaches: rows left out, weights, denominators, and the gradient against formulas by hand.

Shape letters: Q questions, N tags, G rollouts of a question, L labels.
"""

import dataclasses

import numpy as np
import pytest
import torch

from nemo_forking.config import load
from nemo_forking.data.batches import Layout, Row, build, deal
from nemo_forking.rl.batches import Batch
from nemo_forking.rl.rows import fork_rows
from nemo_forking.rl.update import Update, tag_update, token_update
from nemo_forking.tags import Tags

TAGS = Tags("text", ((7, 101, 8), (7, 102, 8), (7, 103, 8)), 1, ((), (), ()))  # the middle id of three differs
PROMPTS = [np.array([11, 12]), np.array([13]), np.array([14, 15, 16]), np.array([17])]
TAG_QG = np.array([[0, 1, 1, 2], [0, 0, 1, 1], [2, 2, 2, 2], [1, 0, 2, 1]])
REWARD_QG = np.array([[1, 0, 1, 0], [1, 1, 1, 1], [0, 1, 1, 0], [0, 1, 0, 0]], dtype=float)
ALL = np.ones((4, 4), dtype=bool)
NUMBER = 5  # of the batch

_random = np.random.default_rng(3)
LOGPROB_QN = np.log(_random.dirichlet([2.0] * 4, 4)[:, :3])  # the fourth part is all other tokens


@pytest.fixture(scope="module")
def policy():
    return dataclasses.replace(load(["experiment=tiny"]).policy, advantage="none", clip_low=0.2, clip_high=0.2)


def a_batch(**changes) -> Batch:
    tables = {"logprob_QN": LOGPROB_QN, "behaviour_QN": LOGPROB_QN, "tag_QG": TAG_QG, "reward_QG": REWARD_QG}
    tables |= {"counted_QG": ALL, "tokens_QG": np.ones((4, 4)), "cut_QG": ~ALL, "drawn_at_Q": np.full(4, NUMBER)}
    return Batch(["a", "b", "c", "d"], ["k"] * 4, **(tables | changes))


def micro_batches(rows: list[Row]):
    """As a pass cuts them, into several."""
    layout = Layout(packing=True, tokens=max(24, max(row.length for row in rows)), micro_batch_size=1)
    return build(rows, deal([row.length for row in rows], layout), layout)


def tag_gradient(update: Update, logprob_QN: np.ndarray) -> tuple[float, np.ndarray, dict]:
    """(loss, gradient by the tags' log-probabilities, sums) of an update under a policy, over all micro-batches."""
    leaf_QN, total, sums = torch.from_numpy(logprob_QN.copy()).requires_grad_(), 0.0, {}
    for batch in micro_batches(update.rows):
        names_L = torch.tensor(batch.rows)[batch.row]
        loss, found = update.objective(batch, -leaf_QN.flatten()[names_L])
        total = total + loss
        sums = {name: sums.get(name, 0.0) + value.item() for name, value in found.items()}
    total.backward()
    return total.item(), leaf_QN.grad.numpy(), sums


# ---------------------------------------------------------------- GFPO


def test_questions_whose_rewards_are_alike_have_no_row_and_still_count(policy):
    update = tag_update(policy, a_batch(), PROMPTS, TAGS, number=NUMBER, every=False)
    assert [row.index for row in update.rows] == [0, 2, 3] and update.skipped == 1
    assert update.objective.denominator == 16
    for row in update.rows:
        assert row.ids[: len(PROMPTS[row.index]) + 1].tolist() == [*PROMPTS[row.index], 7]  # up to the fork, no further
        assert row.choices == (101, 102, 103) and row.length == len(PROMPTS[row.index]) + 1


def test_a_rollout_left_out_is_missing_from_mean_and_denominator(policy):
    counted_QG = ALL.copy()
    counted_QG[3, 1] = False  # the only right one of its question
    update = tag_update(policy, a_batch(counted_QG=counted_QG), PROMPTS, TAGS, number=NUMBER, every=False)
    assert [row.index for row in update.rows] == [0, 2] and update.skipped == 2
    assert update.objective.denominator == 15


@pytest.mark.parametrize("regular", [{"kl_weight": 0.1}, {"entropy_weight": 0.1, "entropy_floor": 0.5}])
def test_a_regulariser_acts_on_questions_whose_rewards_are_alike_too(policy, regular):
    policy = dataclasses.replace(policy, **regular)
    update = tag_update(policy, a_batch(), PROMPTS, TAGS, number=NUMBER, every=False, reference_QN=LOGPROB_QN)
    assert [row.index for row in update.rows] == [0, 1, 2, 3] and update.skipped == 1


def test_the_gradient_of_drawn_tags_is_the_policy_gradient_and_stale_ones_carry_their_ratio(policy):
    """By hand, among the tags: the sum over rollouts of A rho (p_n - [tag = n]), rho 1 where they are fresh."""
    behaviour_QN = LOGPROB_QN.copy()
    behaviour_QN[2:] += [1.0, -0.5, 0.0]  # questions c and d were drawn by an earlier policy
    drawn_at_Q = np.array([NUMBER, NUMBER, NUMBER - 2, NUMBER - 1])
    batch = a_batch(behaviour_QN=behaviour_QN, drawn_at_Q=drawn_at_Q)
    update = tag_update(policy, batch, PROMPTS, TAGS, number=NUMBER, every=False)
    expected_QN, ratios, clipped = np.zeros((4, 3)), [], 0
    for q in (0, 2, 3):
        p_N, old_N = (np.exp(table[q]) / np.exp(table[q]).sum() for table in (LOGPROB_QN, behaviour_QN))
        for tag, reward in zip(TAG_QG[q], REWARD_QG[q], strict=True):
            advantage, ratio = reward - REWARD_QG[q].mean(), p_N[tag] / old_N[tag]
            ratios.append(ratio)
            if advantage > 0 and ratio > 1.2 or advantage < 0 and ratio < 0.8:
                clipped += 1
                continue
            expected_QN[q] += advantage * ratio * (p_N - (np.arange(3) == tag)) / 16
    loss, found_QN, sums = tag_gradient(update, LOGPROB_QN)
    np.testing.assert_allclose(found_QN, expected_QN, rtol=1e-6, atol=1e-12)
    assert sums["clipped_low"] + sums["clipped_high"] == clipped > 0
    assert sums["count"] == 12 and sums["ratio"] == pytest.approx(sum(ratios), rel=1e-6)


def test_the_gradient_where_every_tag_was_tried_is_the_exact_one(policy):
    """By hand: p_n (expected reward - reward of tag n), a mean over all questions."""
    tag_QG = np.tile([0, 1, 2, 0, 1, 2], (4, 1))
    reward_QG = _random.integers(0, 2, (4, 6)).astype(float)
    reward_QG[1] = 1.0
    batch = a_batch(tag_QG=tag_QG, reward_QG=reward_QG, counted_QG=np.ones((4, 6), bool))
    update = tag_update(policy, batch, PROMPTS, TAGS, number=NUMBER, every=True)
    p_QN = np.exp(LOGPROB_QN) / np.exp(LOGPROB_QN).sum(1, keepdims=True)
    value_QN = (reward_QG[:, :3] + reward_QG[:, 3:]) / 2
    expected_QN = p_QN * ((p_QN * value_QN).sum(1, keepdims=True) - value_QN) / 4
    assert 1 not in [row.index for row in update.rows] and len(update.rows) > 1
    np.testing.assert_allclose(tag_gradient(update, LOGPROB_QN)[1], expected_QN, rtol=1e-6, atol=1e-12)


def test_after_an_update_the_ratio_is_to_the_policy_that_drew(policy):
    update = tag_update(policy, a_batch(), PROMPTS, TAGS, number=NUMBER, every=False)
    moved_QN = LOGPROB_QN + [0.05, 0.0, -0.05]
    again = dataclasses.replace(update, objective=update.objective.after_an_update())
    p_QN, old_QN = (np.exp(t) / np.exp(t).sum(1, keepdims=True) for t in (moved_QN, LOGPROB_QN))
    ratio = sum((p_QN / old_QN)[q, tag] for q in (0, 2, 3) for tag in TAG_QG[q])
    assert tag_gradient(again, moved_QN)[2]["ratio"] == pytest.approx(ratio, rel=1e-6)
    assert tag_gradient(update, moved_QN)[2]["ratio"] == 12  # told to be fresh


# ---------------------------------------------------------------- GRPO

COMPLETIONS = [[list(range(20, 21 + q + g)) for g in range(4)] for q in range(4)]  # of 1 to 7 tokens


def token_gradient(update: Update) -> dict[int, np.ndarray]:
    """Rollout -> gradient by the log-probabilities of its counted tokens, under any policy: the ratio is 1."""
    found = {}
    for batch in micro_batches(update.rows):
        leaf_L = torch.rand(len(batch.row), dtype=torch.float64).requires_grad_()
        objective = update.objective
        if objective.policy.kl_weight:
            objective = dataclasses.replace(objective, reference={batch.rows: torch.zeros(len(leaf_L))})
        objective(batch, -leaf_L)[0].backward()
        for name, row in enumerate(batch.rows):
            found[row] = leaf_L.grad[batch.row == name].numpy()
    return found


@pytest.mark.parametrize("normalise", ["token", "sequence", "none"])
def test_every_counted_token_has_its_rollouts_advantage_over_what_conf_says(policy, normalise):
    counted_QG = ALL.copy()
    counted_QG[0, 0] = counted_QG[3, 1] = False
    update = token_update(
        dataclasses.replace(policy, normalise=normalise), a_batch(counted_QG=counted_QG), PROMPTS, COMPLETIONS, TAGS
    )
    lengths_QG = np.array([[2 + len(ids) for ids in of_question] for of_question in COMPLETIONS])  # fork, 8, completion
    rollouts, tokens, expected = counted_QG.sum(), lengths_QG[counted_QG].sum(), {}
    for q in (0, 2):  # of b all are right, of d all that are counted are wrong
        mean = REWARD_QG[q][counted_QG[q]].mean()
        for g in np.flatnonzero(counted_QG[q]):
            divisor = {"token": tokens, "sequence": rollouts * lengths_QG[q, g], "none": rollouts}[normalise]
            expected[4 * q + g] = np.full(lengths_QG[q, g], -(REWARD_QG[q, g] - mean) / divisor)
    found = token_gradient(update)
    assert found.keys() == expected.keys() and update.skipped == 2
    for name, gradient in expected.items():
        np.testing.assert_allclose(found[name], gradient, rtol=1e-6, atol=1e-12)


def test_a_rollouts_row_is_prompt_tag_and_completion_counted_from_the_fork_on(policy):
    rows = token_update(policy, a_batch(), PROMPTS, COMPLETIONS, TAGS).rows
    assert [row.index for row in rows] == [0, 1, 2, 3, *range(8, 16)]
    assert rows[4].ids.tolist() == [14, 15, 16, 7, 103, 8, *COMPLETIONS[2][0]]
    assert rows[4].ids[rows[4].first :].tolist() == [103, 8, *COMPLETIONS[2][0]]


# ---------------------------------------------------------------- nothing to learn


@pytest.mark.parametrize("case", ["all masked", "all alike"])
def test_a_batch_that_teaches_nothing_still_gives_every_rank_a_pass_of_zero_gradient(policy, case):
    changes = {"counted_QG": ~ALL} if case == "all masked" else {"reward_QG": np.ones((4, 4))}
    batch = a_batch(**changes)
    for every in (False, True):
        update = tag_update(policy, batch, PROMPTS, TAGS, number=NUMBER, every=every)
        assert [row.ids.tolist() for row in update.rows] == [fork_rows(PROMPTS[:1], TAGS)[0].ids.tolist()]
        loss, gradient_QN, _ = tag_gradient(update, LOGPROB_QN)
        assert loss == 0 and (gradient_QN == 0).all() and update.skipped == 4
    update = token_update(policy, batch, PROMPTS, COMPLETIONS, TAGS)
    assert len(update.rows) == 1 and update.skipped == 4
    assert all((gradient == 0).all() for gradient in token_gradient(update).values())


def test_the_reference_pulls_at_no_rollout_that_does_not_count(policy):
    policy = dataclasses.replace(policy, kl_weight=0.5)
    gradients = token_gradient(token_update(policy, a_batch(), PROMPTS, COMPLETIONS, TAGS))
    assert len(gradients) == 16 and all((gradient != 0).all() for gradient in gradients.values())
    (gradient,) = token_gradient(token_update(policy, a_batch(counted_QG=~ALL), PROMPTS, COMPLETIONS, TAGS)).values()
    assert (gradient == 0).all()
