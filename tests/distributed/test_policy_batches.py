"""What a step tells of its batch of rollouts, and a batch of which none counts.

Shape letters: Q questions, N tags, G rollouts of a question.
"""

import math
from pathlib import Path

import numpy as np
import pytest

from nemo_forking.rl.batches import Batch
from nemo_forking.training.policy_loop import batch_record, objective_record
from tests.distributed.policy_runs import PolicyGround, run, tiny_policy
from tests.distributed.runs import metrics
from tests.run_files import weights

NONE_COUNTS = {"trainer.max_steps": 1, "rollout.overlong": "masked", "rollout.max_tokens": 1}  # no answer is so short


@pytest.fixture(scope="module")
def ground(policy_ground) -> PolicyGround:
    return policy_ground


@pytest.mark.parametrize(("scope", "ranks"), [("tag", 2), ("all", 1)])
def test_a_batch_of_which_no_rollout_counts_is_a_step_that_changes_nothing(scope, ranks, ground, tmp_path):
    changes = {"policy.scope": scope, "layout.devices": ranks}
    config = tiny_policy(ground, tmp_path, NONE_COUNTS | changes)
    for (seen,) in run(config):
        assert seen.skipped == 4 and seen.taught == [0]  # one row, so that every rank has a pass
    (line,) = metrics(config)
    assert line["reward"] is None and line["reward_tags"] == [None] * 4 and line["overlong"] == 1
    assert line["loss"] == 0 and line["grad_norm"] == 0 and line["rollouts"] == 32
    before, after = weights(ground.base), weights(Path(config.run.folder) / "model")
    assert before.keys() == after.keys() and all((after[name] == tensor).all() for name, tensor in before.items())


# ---------------------------------------------------------------- metrics


SHARE_QN = np.array([[0.5, 0.5], [0.75, 0.25], [1.0, 0.0]])
BATCH = Batch(
    questions=["a", "b", "c"],
    kinds=["P", "Q", "P"],
    logprob_QN=np.log(np.maximum(SHARE_QN, 1e-300) * 0.01),  # all other tokens have 0.99
    behaviour_QN=np.full((3, 2), np.nan),  # tells nothing of the present
    tag_QG=np.array([[0, 0, 1, 1], [0, 1, 0, 1], [0, 0, 0, 0]]),
    reward_QG=np.array([[1.0, 0, 0, 0], [1, 0, 1, 1], [0, 1, 1, 1]]),
    counted_QG=np.array([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 0, 0]], dtype=bool),
    tokens_QG=np.array([[2, 4, 6, 8], [1, 1, 1, 9], [3, 3, 9, 9]]),
    cut_QG=np.array([[0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 1]], dtype=bool),
    drawn_at_Q=np.array([7, 5, 7]),  # b's are of an earlier batch
)


def test_a_batchs_metrics_count_what_counts_and_tell_drawn_from_used_again():
    record = batch_record(BATCH, 7, True, every=False)
    assert record["reward"] == pytest.approx(4 / 9)  # of nine rollouts that count four are right
    assert record["reward_tags"] == pytest.approx([(1 / 2 + 1 + 1 / 2) / 3, (0 + 0) / 2])  # means over questions
    assert record["tag_probability"] == pytest.approx([2.25 / 3, 0.75 / 3])
    assert record["tag_probability_kinds"] == {"P": pytest.approx([0.75, 0.25]), "Q": pytest.approx([0.75, 0.25])}
    entropy_b = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert record["tag_mass"] == pytest.approx(0.01)
    assert record["tag_entropy"] == pytest.approx((math.log(2) + entropy_b + 0) / 3)
    assert record["overlong"] == pytest.approx(3 / 12) and record["completion_tokens"] == pytest.approx(56 / 12)
    assert (record["rollouts"], record["rollouts_reused"], record["tokens_generated"]) == (8, 4, 44)


def test_the_reward_where_every_tag_was_tried_is_the_policys_own():
    """By question: a 0.5 (1/2) + 0.5 (0), b 0.75 (1) + 0.25 (0), and of c one tag alone was tried."""
    assert batch_record(BATCH, 7, True, every=True)["reward"] == pytest.approx((0.25 + 0.75 + 0.5) / 3)


def test_a_later_update_on_the_same_batch_has_drawn_nothing():
    record = batch_record(BATCH, 7, False, every=False)
    assert (record["rollouts"], record["rollouts_reused"], record["tokens_generated"]) == (0, 0, 0)


def test_what_the_objective_tells_is_a_mean_over_entries_and_nothing_where_there_are_none():
    sums = {"count": 4.0, "clipped_low": 1.0, "clipped_high": 2.0, "ratio": 4.4, "kl_old": 0.2, "kl_reference": 0.8}
    assert objective_record(sums, True) == pytest.approx(
        {"clipped_low": 0.25, "clipped_high": 0.5, "ratio": 1.1, "kl_old": 0.05, "kl_reference": 0.2}
    )
    nothing = objective_record(dict.fromkeys(sums, 0.0), False)
    assert nothing.pop("kl_reference") is None and set(nothing.values()) == {0.0}
