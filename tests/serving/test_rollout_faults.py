"""A policy step's rollouts over servers that die, dawdle, lie or hold other weights: the same as undisturbed ones."""

import json
import shutil
import signal
from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pytest

from nemo_forking.engines.dispatch import Pace
from nemo_forking.engines.server import ServerEngine
from nemo_forking.engines.transformers import TransformersEngine
from nemo_forking.errors import UserError
from nemo_forking.evaluation.folder import SAMPLES, load_lines
from nemo_forking.evaluation.sampling import SamplingSettings
from nemo_forking.rewards.many_ways import ManyWaysGrader
from nemo_forking.rewards.math import MathGrader
from nemo_forking.rewards.workers import Workers
from nemo_forking.rl.rollout import draw_tags, roll_out
from nemo_forking.tags import Tags
from tests.serving.deadly import grade_or_die
from tests.serving.local_server import LocalServer
from tests.serving.requests import BANNED, STOP, WORDS

FAST = Pace(first=0.01, longest=0.05, again=0.05, watch=0.1, probe=20.0)
SETTINGS = SamplingSettings(rounds=1, max_tokens=12, stop=STOP, temperature=0.9, top_p=0.95, seed=7)
TAGS = Tags("special", ((141,), (142,), (143,)), 0, ((5,), (6,), (7,)))
QUESTIONS, GROUP = 8, 4
ALL = QUESTIONS * GROUP
LENGTH_OF_Q3 = 33  # a prompt length that no other question has

_random = np.random.default_rng(0)
PROMPTS = {
    f"q{q}": tuple(_random.integers(5, WORDS, LENGTH_OF_Q3 if q == 3 else 5 + q).tolist()) for q in range(QUESTIONS)
}
GOLD = {question: f"00{q % 2}" for q, question in enumerate(PROMPTS)}
TAG_QG = draw_tags(np.zeros((QUESTIONS, 3)), GROUP, list(PROMPTS), seed=1, step=0)


def decode(ids):
    """A text whose answer is right about every other time."""
    return f"rise now\n00{sum(ids) % 2}"


def rolled(engine, folder, open_grader=ManyWaysGrader, text=decode):
    def opened():
        if engine is None:
            raise AssertionError("nothing is missing, so that no engine is needed")
        return engine

    found = roll_out(opened, open_grader, PROMPTS, GOLD, TAGS, TAG_QG, SETTINGS, text, folder, overlong="graded")
    ids = [line["ids"] for line in load_lines(folder / SAMPLES)]
    tables = {name: np.asarray(value).tolist() for name, value in asdict(found).items()}
    return tables | {"ids": [ids[start : start + GROUP] for start in range(0, ALL, GROUP)]}


@pytest.fixture(scope="module")
def undisturbed(checkpoint, other_checkpoint, tmp_path_factory):
    """The rollouts of either model, from the transformers engine."""
    home = tmp_path_factory.mktemp("undisturbed")
    found = {
        folder: rolled(TransformersEngine(folder, banned=BANNED), home / str(number))
        for number, folder in enumerate((checkpoint, other_checkpoint))
    }
    assert found[checkpoint]["ids"] != found[other_checkpoint]["ids"]
    rewards = np.array(found[checkpoint]["reward_QG"])
    assert (rewards.std(axis=1) > 0).sum() > QUESTIONS // 2  # a lost or doubled reward would show
    return found


def connect(checkpoint, *servers, **changes):
    settings = {"banned": BANNED, "concurrency": 2, "timeout": 20.0, "retries": 2, "pace": FAST, **changes}
    return ServerEngine(checkpoint, [server.url for server in servers], **settings)


def kept(folder):
    """Completions that an unfinished folder holds."""
    return (folder / "samples.jsonl.partial").read_bytes().count(b"\n")


# ---------------------------------------------------------------- replicas that die


def test_a_replica_killed_in_the_middle_changes_nothing(checkpoint, pair, undisturbed, tmp_path):
    pair[0].fault(delay=0.05)  # so that the other has its share
    with LocalServer(checkpoint) as dying:
        dying.fault(die_after=5)
        assert rolled(connect(checkpoint, dying, pair[0]), tmp_path) == undisturbed[checkpoint]
        dying.process.join(20)
        assert dying.process.exitcode == -signal.SIGKILL
    assert ALL - 5 <= pair[0].seen() < ALL


def test_when_all_die_the_step_stops_by_name_and_the_next_run_draws_what_is_missing(
    checkpoint, pair, undisturbed, tmp_path
):
    with LocalServer(checkpoint) as one, LocalServer(checkpoint) as two:
        engine = connect(checkpoint, one, two)
        one.fault(die_after=4)
        two.fault(die_after=6)
        with pytest.raises(UserError, match="no vLLM server is left") as raised:
            rolled(engine, tmp_path)
        assert one.url in str(raised.value) and two.url in str(raised.value)
        there = kept(tmp_path)
        assert 0 < there <= 10
        one.process.join(20)
        assert rolled(connect(checkpoint, one, *pair), tmp_path) == undisturbed[checkpoint]  # one is still down
    assert sum(server.seen() for server in pair) == ALL - there
    assert rolled(None, tmp_path) == undisturbed[checkpoint]


# ---------------------------------------------------------------- replicas that dawdle or lie


def test_a_replica_out_of_time_loses_its_requests_to_the_others(checkpoint, pair, undisturbed, tmp_path):
    pair[0].fault(delay=600)
    assert rolled(connect(checkpoint, *pair, timeout=2.0), tmp_path) == undisturbed[checkpoint]
    assert pair[0].seen() >= 2 and pair[1].seen() == ALL


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 500},
        {"garbage": "no JSON"},
        {"garbage": "half of it"},
        {"garbage": "nothing"},
        {"garbage": "no choices"},
        {"garbage": "no tokens"},
        {"garbage": "a token lost"},
        {"garbage": "logprobs of another length"},
        {"garbage": "ids outside the vocabulary"},
        {"garbage": "another prompt"},
        {"garbage": "cut short"},
    ],
    ids=lambda fault: str(*fault.values()),
)
def test_garbage_from_one_replica_reaches_no_rollout(checkpoint, pair, undisturbed, tmp_path, fault):
    pair[0].fault(**fault)
    assert rolled(connect(checkpoint, *pair), tmp_path) == undisturbed[checkpoint]
    assert pair[0].seen() > 0 and pair[1].seen() == ALL


def test_a_question_that_every_replica_answers_with_garbage_costs_no_other(checkpoint, pair, undisturbed, tmp_path):
    for server in pair:
        server.fault(garbage="a token lost", length=LENGTH_OF_Q3 + TAGS.length)
    with pytest.raises(UserError, match=rf"{GROUP} of {ALL} requests failed 3 times each; ./0/q3 last at http"):
        rolled(connect(checkpoint, *pair), tmp_path)
    assert kept(tmp_path) == ALL - GROUP
    for server in pair:
        server.fault()
    assert rolled(connect(checkpoint, *pair), tmp_path) == undisturbed[checkpoint]
    assert sum(server.seen() for server in pair) == GROUP


# ---------------------------------------------------------------- weights, which change with every step


def test_two_steps_from_one_folder_give_each_its_own_weights_on_every_replica(
    checkpoint, other_checkpoint, undisturbed, tmp_path
):
    policy = tmp_path / "policy"
    with LocalServer(checkpoint) as one, LocalServer(checkpoint) as two:
        engine = connect(checkpoint, one, two)
        for step, weights in enumerate((other_checkpoint, checkpoint)):
            shutil.copytree(weights, policy, dirs_exist_ok=True)
            engine.refresh(policy)
            for server in (one, two):
                alone = connect(checkpoint, server)  # takes the weights as they are
                assert rolled(alone, tmp_path / f"{step}, {server.port}") == undisturbed[weights]
            assert rolled(engine, tmp_path / str(step)) == undisturbed[weights]
        assert (one.loads(), two.loads()) == (2, 2)


def test_a_refresh_while_a_replica_is_down_reaches_it_when_it_is_back(
    checkpoint, other_checkpoint, undisturbed, tmp_path
):
    with LocalServer(checkpoint) as steady, LocalServer(checkpoint) as lost:
        engine = connect(checkpoint, lost, steady)
        lost.kill()
        engine.refresh(other_checkpoint)
        with LocalServer(checkpoint, port=lost.port) as returned:
            steady.fault(delay=0.05)
            assert rolled(engine, tmp_path) == undisturbed[other_checkpoint]
            assert returned.loads() == 1 and returned.seen() > 0


@pytest.mark.parametrize("tells_birth", [True, False])
def test_a_replica_started_anew_takes_the_policys_weights_before_it_works(
    checkpoint, other_checkpoint, undisturbed, tmp_path, tells_birth
):
    """One that tells its birth is caught though it was never missed; another, after it gave no answer."""
    with LocalServer(checkpoint) as steady, LocalServer(checkpoint, tells_birth=tells_birth) as lost:
        engine = connect(checkpoint, lost, steady, pace=replace(FAST, probe=1.0))
        engine.refresh(other_checkpoint)
        if not tells_birth:
            lost.fault(hang=True)
            steady.fault(delay=0.1)  # for longer than a probe may take
            assert rolled(engine, tmp_path / "one") == undisturbed[other_checkpoint]
        lost.kill()
        with LocalServer(checkpoint, tells_birth=tells_birth, port=lost.port) as returned:
            steady.fault(delay=0.05)
            assert rolled(engine, tmp_path / "two") == undisturbed[other_checkpoint]
            assert returned.loads() == 1 and returned.seen() > 0
        assert steady.loads() == 0  # after the first time, before fault() began to count anew


# ---------------------------------------------------------------- the grader


def test_a_completion_that_hangs_or_kills_the_graders_worker_is_no_reward_and_the_step_goes_on(
    checkpoint, pair, undisturbed, tmp_path
):
    expected = undisturbed[checkpoint]
    right = [(q, g) for q in range(QUESTIONS) for g in range(GROUP) if expected["reward_QG"][q][g]]
    bad = dict(zip(("hang", "die"), (right[0], right[-1]), strict=True))
    text_of = {json.dumps([i for i in expected["ids"][q][g] if i not in STOP]): text for text, (q, g) in bad.items()}

    def open_grader():
        grader = MathGrader(SimpleNamespace(workers=1, math_seconds=0.3))
        grader.workers = Workers(grade_or_die, count=1, seconds=0.3)
        return grader

    def text(ids):
        return text_of.get(json.dumps(ids), decode(ids))

    found = rolled(connect(checkpoint, *pair), tmp_path, open_grader, text)
    rewards = [list(row) for row in expected["reward_QG"]]
    for q, g in bad.values():
        rewards[q][g] = 0.0
    expected = {**expected, "reward_QG": rewards}
    assert found == expected
    verdicts = [json.loads(line) for line in (tmp_path / "verdicts.jsonl").read_text().splitlines()]
    notes = {line["note"] for line in verdicts if line["verdict"] == "timed out"}
    assert notes == {"no result after 0.3 s", "the worker died: SIGKILL"}
    assert rolled(None, tmp_path, open_grader) == expected  # the verdicts stand
