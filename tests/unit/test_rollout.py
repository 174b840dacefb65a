"""Rollouts: tags drawn from the policy, completions behind them, rewards; a kill costs nothing."""

import json

import numpy as np
import pytest
from scipy import stats

from nemo_forking.engines import Completion, Engine
from nemo_forking.evaluation.sampling import SamplingSettings
from nemo_forking.rewards.many_ways import ManyWaysGrader
from nemo_forking.rl.rollout import draw_tags, every_tag, roll_out
from nemo_forking.tags import Tags

TAGS = Tags("special", ((101,), (102,), (103,)), 0, ((1,), (2,), (3,)))
PROMPTS = {"q0": (5,), "q1": (6,)}
GOLD = {"q0": "000", "q1": "001"}
SETTINGS = SamplingSettings(rounds=1, max_tokens=4, stop=(9,), temperature=1.0, top_p=1.0, seed=3)
LOGPROB_QN = np.log([[0.7, 0.2, 0.1], [0.05, 0.05, 0.9]])


class ByTag(Engine):
    """Answers 000 under tag 1 and 001 under tag 2, and never ends under tag 3; dies after some completions."""

    def __init__(self, die_after=None):
        self.asked, self.die_after = [], die_after

    def describe(self):
        return {"engine": "by tag", "version": "1", "dtype": "float32"}

    def stream(self, requests):
        for request in requests:
            if len(self.asked) == self.die_after:
                raise KeyboardInterrupt
            self.asked.append(request.id)
            tag = request.prompt[-1] - 101
            ids = [[10, 0, 9], [10, 1, 9], [10, 0, 0, 0]][tag]
            yield Completion(request.id, ids, [-0.1] * len(ids), "length" if tag == 2 else "stop")


def decode(ids):
    return {(10, 0): "rise now\n000", (10, 1): "rise now\n001", (10, 0, 0, 0): "rise now\n000"}[tuple(ids)]


def rolled(folder, tag_QG, engine=None, **more):
    engine = engine or ByTag()
    return roll_out(lambda: engine, ManyWaysGrader, PROMPTS, GOLD, TAGS, tag_QG, SETTINGS, decode, folder, **more)


def test_tags_follow_the_policys_distribution():
    ids = [f"q{i}" for i in range(2000)]
    tag_QG = draw_tags(np.tile(LOGPROB_QN[0] - 4.0, (2000, 1)), 6, ids, seed=1, step=0)  # unnormalised is the same
    counts = np.bincount(tag_QG.ravel(), minlength=3)
    assert stats.chisquare(counts, 12000 * np.array([0.7, 0.2, 0.1])).pvalue > 1e-3


def test_tags_depend_on_seed_step_and_question_alone():
    both = draw_tags(LOGPROB_QN, 50, ["a", "b"], seed=1, step=2)
    assert (draw_tags(LOGPROB_QN[::-1], 50, ["b", "a"], seed=1, step=2)[::-1] == both).all()
    for other in (
        draw_tags(LOGPROB_QN, 50, ["a", "b"], seed=1, step=3),
        draw_tags(LOGPROB_QN, 50, ["a", "b"], seed=2, step=2),
    ):
        assert (other != both).any()


def test_a_tag_without_probability_is_never_drawn():
    logprob_QN = np.array([[-np.inf, 0.0, -np.inf], [0.0, -np.inf, -700.0]])
    tag_QG = draw_tags(logprob_QN, 200, ["a", "b"], seed=0, step=0)
    assert set(tag_QG[0]) == {1} and set(tag_QG[1]) == {0}


def test_every_tag_in_turn_takes_whole_turns():
    assert every_tag(2, 3, 6).tolist() == [[0, 1, 2, 0, 1, 2]] * 2
    with pytest.raises(ValueError, match="4 rollouts a question are no multiple of 3 tags"):
        every_tag(1, 3, 4)


def test_rewards_are_those_of_the_answers_under_each_tag(tmp_path):
    found = rolled(tmp_path, np.array([[0, 1, 0], [1, 1, 0]]))
    assert found.reward_QG.tolist() == [[1, 0, 1], [1, 1, 0]]
    assert found.counted_QG.all() and (found.tokens_QG == 3).all()
    lines = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert [line["tag"] for line in lines] == [0, 1, 0, 1, 1, 0]
    assert [line["ids"] for line in lines[3:]] == [[10, 1, 9], [10, 1, 9], [10, 0, 9]]


@pytest.mark.parametrize(
    ("overlong", "reward", "counted"),
    [("wrong", [1, 0], [1, 1]), ("graded", [1, 1], [1, 1]), ("masked", [1, 1], [1, 0])],
)
def test_an_overlong_sample_is_wrong_graded_or_left_out(tmp_path, overlong, reward, counted):
    found = rolled(tmp_path, np.array([[0, 2], [0, 2]]), overlong=overlong)
    assert found.reward_QG[0].tolist() == reward and found.counted_QG[0].tolist() == counted


def test_a_killed_step_completes_nothing_twice_and_ends_the_same(tmp_path):
    tag_QG = np.array([[0, 1, 2], [2, 1, 0]])
    whole = rolled(tmp_path / "whole", tag_QG)
    dying, resuming = ByTag(die_after=4), ByTag()
    with pytest.raises(KeyboardInterrupt):
        rolled(tmp_path / "killed", tag_QG, dying)
    found = rolled(tmp_path / "killed", tag_QG, resuming)
    assert 6 <= len(dying.asked) + len(resuming.asked) <= 7  # at most the one in flight is asked for again
    samples, undisturbed = ((tmp_path / name / "samples.jsonl").read_text() for name in ("killed", "whole"))
    assert samples == undisturbed and (found.reward_QG == whole.reward_QG).all()
