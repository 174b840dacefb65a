"""Rank 0's folder of a batch: tags chosen once, completions in order, earlier rollouts used again without an engine.

Shape letters: Q questions, N tags, G rollouts of a question.
"""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from nemo_forking.config import load
from nemo_forking.config.load import with_overrides
from nemo_forking.engines import Completion, Engine
from nemo_forking.errors import UserError
from nemo_forking.rl.collect import Asked, Collector
from nemo_forking.rl.prompts import Prompt
from nemo_forking.tags import Tags

TAGS = Tags("special", ((101,), (102,), (103,), (104,)), 0, ((1,), (2,), (3,), (4,)))
GROUP, STOP = 4, 9
IDENTITY = {"run": "this one"}


class Backwards(Engine):
    """Answers 00n under tag n, the last request first; a completion tells which prompt it is of."""

    def __init__(self):
        self.asked: list[str] = []

    def describe(self):
        return {"engine": "backwards", "version": "1", "dtype": "float32"}

    def stream(self, requests):
        for request in reversed(requests):
            self.asked.append(request.id)
            ids = [request.prompt[0], request.prompt[-1], STOP]
            yield Completion(request.id, ids, [-0.1] * 3, "stop")


def collector(folder, engine: Engine | None = None, identity=IDENTITY, **changes) -> Collector:
    """Of a run in this folder; without an engine it cannot ask any."""
    settings = {"run.folder": str(folder), "tags.count": 4, "rollout.group": GROUP, "rollout.tags": "drawn"}
    settings |= {name.replace("_", ".", 1): value for name, value in changes.items()}
    made = Collector(with_overrides(CONFIG, settings), TAGS, identity)
    if engine is not None:
        tokenizer = SimpleNamespace(decode=lambda ids: f"rise now\n00{ids[1] - 101}")
        made.system = SimpleNamespace(engine=lambda: engine, stop=(STOP,), tokenizer=tokenizer)
    return made


CONFIG = load(["experiment=tiny"])


def asked(*numbers: int) -> list[Asked]:
    """Questions by number; that of number n is answered right under tag n modulo 4."""
    told = {"prompt": "?", "text": "?", "answer": "many_ways"}
    return [
        Asked(Prompt(id=f"q{n}", gold=f"00{n % 4}", kind="PQ"[n % 2], **told), np.array([20 + n, 5, 5]))
        for n in numbers
    ]


def logprobs(questions: int, seed: int = 0) -> np.ndarray:
    """logprob_QN over a vocabulary that has other tokens too."""
    return np.log(np.random.default_rng(seed).dirichlet([2.0] * 5, questions)[:, :4])


def collect(made: Collector, number: int, *questions: int, seed: int = 0):
    """Choose and roll out, as a step does."""
    made.choose(number, asked(*questions), logprobs(len(questions), seed))
    return made.roll_out(number, asked(*questions))


# ---------------------------------------------------------------- tags


def test_tags_and_their_log_probabilities_are_written_once(tmp_path):
    first, again = collector(tmp_path), collector(tmp_path)
    assert first.fork_logprobs(0) is None
    first.choose(0, asked(0, 1), logprobs(2))
    written = (first.folder(0) / "fork.json").read_bytes()
    again.choose(0, asked(0, 1), logprobs(2, seed=1))  # after a kill, from a policy that rounds differently
    assert (first.folder(0) / "fork.json").read_bytes() == written
    assert (again.fork_logprobs(0) == logprobs(2)).all()


def test_tags_are_drawn_by_the_policys_shares_anew_for_every_batch(tmp_path):
    share_N, questions = np.array([0.6, 0.05, 0.25, 0.1]), range(500)
    drawn = []
    for number, folder in ((0, "a"), (0, "b"), (1, "a")):
        made = collector(tmp_path / folder)
        made.choose(number, asked(*questions), np.tile(np.log(share_N) - 7.0, (500, 1)))  # all tags: exp(-7) of all
        drawn.append(np.array(json.loads((made.folder(number) / "fork.json").read_text())["tag_QG"]))
    counts = np.bincount(drawn[0].ravel(), minlength=4)
    assert stats.chisquare(counts, counts.sum() * share_N).pvalue > 1e-3
    assert (drawn[0] == drawn[1]).all() and (drawn[0] != drawn[2]).any()


def test_every_tag_is_tried_in_turn_where_conf_says_so(tmp_path):
    made = collector(tmp_path, rollout_tags="every", rollout_group=8)
    made.choose(0, asked(0, 1), logprobs(2))
    assert json.loads((made.folder(0) / "fork.json").read_text())["tag_QG"] == [[0, 1, 2, 3] * 2] * 2


# ---------------------------------------------------------------- rollouts


def test_completions_and_rewards_stand_by_question_and_tag_whatever_came_first(tmp_path):
    made = collector(tmp_path, Backwards())
    batch = collect(made, 0, 3, 0, 2)
    assert batch.questions == ["q3", "q0", "q2"] and batch.kinds == ["Q", "P", "P"]
    completions = made.completions(0, GROUP)
    for row, number in enumerate((3, 0, 2)):
        tags = batch.tag_QG[row]
        assert [line.tolist() for line in completions[row]] == [[20 + number, 101 + tag, STOP] for tag in tags]
        assert batch.reward_QG[row].tolist() == (tags == number % 4).tolist()
    assert batch.counted_QG.all() and (batch.tokens_QG == 3).all() and (batch.drawn_at_Q == 0).all()
    assert (batch.logprob_QN == logprobs(3)).all() and (batch.behaviour_QN == logprobs(3)).all()


def test_what_is_completed_needs_no_engine_and_what_is_graded_is_read(tmp_path):
    made, engine = collector(tmp_path, Backwards()), None
    made.choose(0, asked(0, 1), logprobs(2))
    assert made.needs_engine(0) and made.finished(0) is None
    batch = made.roll_out(0, asked(0, 1))
    for name in ("rollouts.json", "verdicts.jsonl"):  # as after a kill before the grading
        (made.folder(0) / name).unlink()
    again = collector(tmp_path, engine := Backwards())
    assert not again.needs_engine(0) and again.finished(0) is None
    found = again.roll_out(0, asked(0, 1))
    assert engine.asked == [] and (found.reward_QG == batch.reward_QG).all()
    assert (collector(tmp_path).finished(0).reward_QG == batch.reward_QG).all()


def test_rollouts_that_are_used_again_need_no_engine_and_keep_their_own_policy(tmp_path):
    drawn = collect(collector(tmp_path, Backwards(), rollout_reuse=2), 0, 0, 1, 2)
    made = collector(tmp_path, rollout_reuse=2)
    for number in (1, 2):
        made.choose(number, asked(2, 0, 1), logprobs(3, seed=number))
        assert not made.needs_engine(number)
        batch = made.roll_out(number, asked(2, 0, 1))
        order = [2, 0, 1]
        for name in ("behaviour_QN", "tag_QG", "reward_QG", "counted_QG", "tokens_QG", "cut_QG"):
            assert (getattr(batch, name) == getattr(drawn, name)[order]).all(), name
        assert (batch.logprob_QN == logprobs(3, seed=number)).all() and (batch.drawn_at_Q == 0).all()
    made.choose(3, asked(2, 0, 1), logprobs(3))
    assert made.needs_engine(3)  # three batches ago is too old


def test_only_questions_without_earlier_rollouts_are_completed(tmp_path):
    drawn = collect(collector(tmp_path, Backwards(), rollout_reuse=1), 0, 0, 1)
    made = collector(tmp_path, engine := Backwards(), rollout_reuse=1)
    batch = collect(made, 1, 5, 1, 6, seed=1)
    assert {request.rpartition("/")[2] for request in engine.asked} == {"q5", "q6"} and len(engine.asked) == 2 * GROUP
    assert batch.drawn_at_Q.tolist() == [1, 0, 1] and batch.tag_QG[1].tolist() == drawn.tag_QG[1].tolist()
    for row, number in enumerate((5, 1, 6)):
        assert batch.reward_QG[row].tolist() == (batch.tag_QG[row] == number % 4).tolist()
    assert (batch.behaviour_QN[1] == drawn.logprob_QN[1]).all() and (batch.logprob_QN == logprobs(3, seed=1)).all()


# ---------------------------------------------------------------- refusals


def test_rollouts_to_be_used_again_that_are_gone_are_asked_back(tmp_path):
    made = collector(tmp_path, Backwards(), rollout_reuse=1)
    collect(made, 0, 0, 1)
    made.choose(1, asked(1, 0), logprobs(2))
    shutil.rmtree(made.folder(0))
    with pytest.raises(UserError, match=f"{made.folder(0)}: not there any more, and {made.folder(1)} uses its rollo"):
        made.roll_out(1, asked(1, 0))


def test_another_runs_rollouts_and_damaged_ones_are_refused_with_what_to_do(tmp_path):
    made = collector(tmp_path)
    made.choose(0, asked(0), logprobs(1))
    for read in ("fork_logprobs", "finished", "needs_engine"):
        with pytest.raises(UserError, match=f"{made.folder(0)}: rollouts of another run; choose another run.folder"):
            getattr(collector(tmp_path, identity={"run": "another"}), read)(0)
    (made.folder(0) / "fork.json").write_text('{"identity": ')
    with pytest.raises(UserError, match=f"fork.json: damaged; remove {made.folder(0)} to draw this batch anew"):
        made.needs_engine(0)
