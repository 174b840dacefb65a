"""A policy step that is killed anywhere goes on as if it had not been: nothing is drawn, graded or trained twice.

The kill is a real SIGKILL of rank 0, at every boundary of a step in turn: one life, one boundary, then the next life.
"""

import json
import os
import signal
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from nemo_forking.config import Config
from nemo_forking.engines.transformers import TransformersEngine
from nemo_forking.errors import UserError
from nemo_forking.evaluation.folder import SAMPLES, VERDICTS, Growing
from nemo_forking.rl import collect, rollout
from nemo_forking.rl.batches import Batch
from nemo_forking.training import policy_step
from nemo_forking.training.checkpoint import Checkpoints
from nemo_forking.training.launch import RankFailed, fork_ranks
from nemo_forking.training.policy import train_policy
from nemo_forking.training.policy_loop import PolicyLoop
from tests.distributed.policy_reference import batch_folders
from tests.distributed.policy_runs import SETTING, PolicyGround, on_call, run, tiny_policy
from tests.distributed.resuming import ADAM, assert_same, model
from tests.distributed.runs import DATA, ONE, PIPELINE, TENSOR, metrics
from tests.run_files import assert_same_weights, lines

GFPO = ADAM | {"optim.lr": 5e-3, "trainer.max_steps": 3}
GRPO = GFPO | {"policy.scope": "all", "policy.updates": 2, "trainer.max_steps": 6, "trainer.checkpoint_every": 2}
FILES = ("fork.json", SAMPLES, VERDICTS, "rollouts.json")  # of a batch
ROLLOUTS, AT_ONCE = 4 * SETTING["rollout.group"], SETTING["engine.batch_size"]  # of a batch; completions in flight

PARTIAL_SAMPLES, PARTIAL_VERDICTS = f"{SAMPLES}.partial", f"{VERDICTS}.partial"
STAGES = ("fork.json", PARTIAL_SAMPLES, SAMPLES, PARTIAL_VERDICTS, VERDICTS, "rollouts.json")

BOUNDARIES = {  # where a life ends -> what is called there, how often before it kills, the batch's newest file then
    "while the fork is read": (policy_step, "tag_logprobs", 0, None),
    "tags chosen": (collect.Collector, "needs_engine", 0, "fork.json"),
    "policy exported": (collect.Collector, "roll_out", 0, "fork.json"),
    "between two completions": (Growing, "add", AT_ONCE + 4, PARTIAL_SAMPLES),
    "completed": (rollout, "grade_samples", 0, SAMPLES),
    "between two verdicts": (Growing, "add", ROLLOUTS - 3, PARTIAL_VERDICTS),
    "graded": (Batch, "save", 0, VERDICTS),
    "before the update": (policy_step, "make_pass", 0, "rollouts.json"),
    "updated": (Checkpoints, "save", 0, "rollouts.json"),
    "saved": (PolicyLoop, "on_train_batch_start", 1, "rollouts.json"),
}


@pytest.fixture(scope="module")
def ground(policy_ground) -> PolicyGround:
    return policy_ground


@pytest.fixture(scope="module")
def whole(ground, tmp_path_factory) -> Config:
    """GFPO undisturbed, in one process."""
    config = tiny_policy(ground, tmp_path_factory.mktemp("gfpo"), GFPO)
    run(config)
    return config


def test_gfpo_killed_at_every_boundary_equals_an_undisturbed_run_exactly(ground, whole, tmp_path):
    config = tiny_policy(ground, tmp_path, GFPO)
    for life, name in enumerate(BOUNDARIES):  # all in the second of three steps
        kill(config, name, passed=1 if life == 0 else 0)
        assert len(metrics(config)) == (2 if name in ("updated", "saved") else 1)
    run(config, partial(count, config))
    assert_same_rollouts(config, whole)
    assert_nothing_twice(config)


def test_grpo_killed_between_its_updates_equals_an_undisturbed_run_exactly(ground, tmp_path):
    undisturbed, config = (tiny_policy(ground, tmp_path / name, GRPO) for name in ("whole", "killed"))
    run(undisturbed)
    kill(config, "between two completions")
    kill(config, "saved")  # after one of two updates: nothing is saved there, and both are made again
    assert not list(tmp_path.glob("killed/checkpoints/step_*"))
    kill(config, "before the update", passed=1)
    kill(config, "updated")
    run(config, partial(count, config))
    assert_same_rollouts(config, undisturbed)
    assert_nothing_twice(config)


def test_every_life_may_have_another_layout(ground, whole, tmp_path):
    lives = (("completed", ONE), ("before the update", TENSOR), ("between two completions", PIPELINE))
    for name, layout in lives:
        kill(tiny_policy(ground, tmp_path, GFPO | layout), name)
    config = tiny_policy(ground, tmp_path, GFPO | DATA)
    run(config, partial(count, config))
    assert_nothing_twice(config)
    for got, same in zip(batch_folders(config), batch_folders(whole), strict=True):
        got, same = (json.loads((folder / "rollouts.json").read_text()) for folder in (got, same))
        assert got["tag_QG"] == same["tag_QG"] and got["reward_QG"] == same["reward_QG"]
        np.testing.assert_allclose(got["logprob_QN"], same["logprob_QN"], rtol=1e-3)
    for got, same in zip(metrics(config), metrics(whole), strict=True):
        assert got["step"] == same["step"]
        np.testing.assert_allclose(got["grad_norm"], same["grad_norm"], rtol=1e-3)
    assert_same_weights(model(config), model(whole), rtol=1e-3, atol=1e-4)


def test_finished_rollouts_of_another_run_are_refused_by_name_on_every_rank(ground, tmp_path):
    kill(tiny_policy(ground, tmp_path, GFPO | DATA), "before the update")  # no checkpoint tells yet whose run it is
    other = tiny_policy(ground, tmp_path, GFPO | DATA | {"run.seed": 2})
    for message in fork_ranks(refusal, 2, other):
        assert message.startswith(f"{tmp_path / 'rollouts' / 'batch_0000001'}: rollouts of another run; choose another")


def refusal(config: Config) -> str:
    with pytest.raises(UserError) as caught:
        train_policy(config)
    return str(caught.value)


# ---------------------------------------------------------------- one life


def kill(config: Config, name: str, passed: int = 0) -> None:
    """Train until rank 0 comes to the boundary, having passed it in so many batches."""
    owner, called, before, newest = BOUNDARIES[name]

    def prepare_to_die() -> None:
        count(config)
        if os.environ["RANK"] == "0":
            on_call(owner, called, before + passed, lambda: os.kill(os.getpid(), signal.SIGKILL))

    with pytest.raises(RankFailed, match="rank 0 was ended by SIGKILL"):
        run(config, prepare_to_die)
    folder = Path(config.run.folder) / "rollouts" / f"batch_{len(batch_folders(config)) + (newest is None):07d}"
    assert [stage for stage in STAGES if (folder / stage).exists()][-1:] == ([newest] if newest else [])


def count(config: Config) -> None:
    """In the forked rank: note every line of samples or verdicts, and every request of the engine."""
    add, complete = Growing.add, TransformersEngine._run

    def add_and_note(growing: Growing, line: dict) -> None:
        add(growing, line)
        note({"file": str(growing.path), "key": [line["question"], line["slot"]]})

    def complete_and_note(engine: TransformersEngine, requests: Iterable):
        note({"file": "engine", "requests": len(requests)})
        return complete(engine, requests)

    def note(what: dict) -> None:
        with open(Path(config.run.folder) / "noted.jsonl", "a") as file:
            file.write(json.dumps(what) + "\n")

    Growing.add, TransformersEngine._run = add_and_note, complete_and_note
    Path(config.run.folder).mkdir(parents=True, exist_ok=True)


# ---------------------------------------------------------------- what became of it


def assert_same_rollouts(config: Config, whole: Config) -> None:
    """Bit for bit: rollouts and rewards; metrics and weights, too."""
    for got, same in zip(batch_folders(config), batch_folders(whole), strict=True):
        assert [(got / file).read_bytes() for file in FILES] == [(same / file).read_bytes() for file in FILES]
    assert_same(config, whole)


def assert_nothing_twice(config: Config) -> None:
    """One line of samples and of verdicts for every rollout, over all lives; the engine repeats what was in flight."""
    noted, batches = lines(Path(config.run.folder) / "noted.jsonl"), len(batch_folders(config))
    written = [(line["file"], *line["key"]) for line in noted if line["file"] != "engine"]
    assert len(written) == len(set(written)) == 2 * ROLLOUTS * batches
    asked = sum(line["requests"] for line in noted if line["file"] == "engine")
    assert asked == ROLLOUTS * batches + AT_ONCE
