"""The law of the policy step: loss, gradient and weights are those of a dense float64 model, however laid out.

Rollouts are real: rank 0 exports the policy, transformers completes, the answers are graded. The reference then follows
them. Every setting that acts at all acts in the layouts' runs: two batches, two updates on each, so that ratios leave 1
and the clip bites; KL to the base; for tags, the entropy floor.

Shape letters: Q questions, N tags, G rollouts of a question.
"""

import numpy as np
import pytest

from nemo_forking.config import Config
from tests.distributed import policy_reference
from tests.distributed.policy_runs import PolicyGround, Seen, other_base, run, tiny_policy
from tests.distributed.runs import in_fork
from tests.distributed.test_invariance import INTERLEAVED, SEQUENCE, UNPACKED, compare_weights, layout

LAW = {"trainer.max_steps": 4, "policy.updates": 2, "policy.kl_weight": 0.3}
TAG = LAW | {"policy.entropy_floor": 1.2, "policy.entropy_weight": 0.5}
ALL = LAW | {"policy.scope": "all", "optim.lr": 100.0, "optim.min_lr": 100.0}
LAYOUTS = {
    "one process": {},
    "three sequences a micro-batch": UNPACKED | {"batch.micro_batch_size": 3, "batch.match_micro_batch_size": 5},
    "small micro-batches": {"batch.tokens": 24, "batch.match_tokens": 24, "loss.chunk": 1, "data.max_length": 24},
    "recompute": {"layout.recompute": "full"},
    "tensor 2": layout(2, tensor=2),
    "sequence": SEQUENCE,
    "pipeline 2": layout(2, pipeline=2),
    "interleaved pipeline": INTERLEAVED,
    "context 2": layout(2, context=2),
    "data 2": layout(2),
    "tensor 2 x data 2": layout(4, tensor=2),
}
LAYOUTS_ALL = ("three sequences a micro-batch", "sequence", "pipeline 2", "interleaved pipeline", "context 2", "data 2")

PLAIN = {"policy.kl_weight": 0.0, "policy.entropy_weight": 0.0}
EVERY = {"rollout.tags": "every"}
MASKED = {"rollout.overlong": "masked", "rollout.max_tokens": 5, "rollout.temperature": 1.5}  # some answers are longer
SETTINGS = {
    "plain": TAG | PLAIN,
    "vocabulary": TAG | {"policy.support": "vocabulary", "policy.advantage": "none"},
    "every tag": TAG | EVERY | {"policy.advantage": "batch"},
    "every tag, plain, vocabulary": TAG | PLAIN | EVERY | {"policy.support": "vocabulary"},
    "output layer faster": TAG | {"optim.body_lr": 0.2},
    "rewards used again": TAG | {"batch.questions": 8, "rollout.reuse": 1},
    "masked": TAG | {"policy.advantage": "batch"} | MASKED,
    "tokens, mean of sequences": ALL | PLAIN | {"policy.normalise": "sequence", "policy.advantage": "batch"},
    "tokens, sum, masked": ALL | MASKED | {"policy.normalise": "none", "optim.lr": 20.0, "optim.min_lr": 20.0},
}


@pytest.fixture(scope="module")
def ground(policy_ground) -> PolicyGround:
    return policy_ground


@pytest.mark.parametrize("name", LAYOUTS)
def test_gfpo_gives_the_dense_result_under_every_layout(name, ground, tmp_path):
    assert_all_acts(check(tiny_policy(ground, tmp_path / "run", TAG | LAYOUTS[name])))


@pytest.mark.parametrize("name", LAYOUTS_ALL)
def test_grpo_gives_the_dense_result_under_every_layout(name, ground, tmp_path):
    assert_all_acts(check(tiny_policy(ground, tmp_path / "run", ALL | LAYOUTS[name])))


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_gives_the_dense_result(name, ground, tmp_path):
    check(tiny_policy(ground, tmp_path / "run", SETTINGS[name] | layout(2, tensor=2)))


@pytest.mark.parametrize("scope", ["tag", "all"])
def test_text_tags_and_tied_embeddings_give_the_dense_result(scope, ground, tmp_path):
    """GFPO reads the ids of the tag before the fork, GRPO learns those behind it too."""
    base = other_base(tmp_path / "base", tied=scope == "tag", spelling="text")
    check(tiny_policy(ground, tmp_path / "run", {"tag": TAG, "all": ALL}[scope] | base | layout(2, pipeline=2)))


def check(config: Config) -> list[policy_reference.PolicyStep]:
    """Run, follow, compare; the reference's steps."""
    ranks = run(config)
    steps, end = in_fork(policy_reference.follow, config)
    assert len(steps) == config.trainer.max_steps
    for seen in ranks:
        for number, (got, wanted) in enumerate(zip(seen, steps, strict=True)):
            compare(config, number, got, wanted)
    compare_weights(config, end, len(steps), (slice(None),))
    return steps


def assert_all_acts(steps: list[policy_reference.PolicyStep]) -> None:
    """Some question is skipped, and the clip takes some gradient, but not all."""
    assert any(step.skipped for step in steps) and any(0 < step.clipped < 1 for step in steps)


def compare(config: Config, number: int, got: Seen, wanted: policy_reference.PolicyStep) -> None:
    """What a rank saw of a step; the loss may be a sum that cancels."""
    tolerance, record, policy = 1e-5 if number == 0 else 1e-4, got.record, config.policy
    assert got.skipped == wanted.skipped == record["questions_skipped"]
    np.testing.assert_allclose(record["grad_norm"], wanted.grad_norm, rtol=tolerance)
    np.testing.assert_allclose(record["loss"], wanted.loss, rtol=tolerance, atol=1e-6)
    if number % policy.updates == 0:
        share_QN = np.exp(wanted.logprob_QN) / np.exp(wanted.logprob_QN).sum(1, keepdims=True)
        np.testing.assert_allclose(record["tag_probability"], share_QN.mean(0), rtol=tolerance)
        np.testing.assert_allclose(record["tag_entropy"], -(share_QN * np.log(share_QN)).sum(1).mean(), rtol=tolerance)
    if policy.kl_weight:  # else the rows of skipped questions are left out of the share
        assert record["clipped_low"] + record["clipped_high"] == pytest.approx(wanted.clipped, rel=1e-4)
