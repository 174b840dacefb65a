"""A run that is asked to stop saves itself and ends; the same command goes on to the numbers of an undisturbed run."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from nemo_forking.config import Config
from nemo_forking.errors import Stopped
from nemo_forking.evaluation.folder import Growing
from tests.distributed import policy_runs, test_policy_resume
from tests.distributed.policy_runs import on_call, tiny_policy
from tests.distributed.resuming import ADAM, assert_same, finish, note, trained
from tests.distributed.runs import TENSOR, VOCABULARY, metrics, run, tiny
from tests.distributed.test_resume import FOUR

RECIPE = str(Path(__file__).parents[2] / "recipes" / "ssft.py")
SELDOM = ADAM | {"trainer.checkpoint_every": 100}


@pytest.mark.parametrize(
    ("number", "layout", "rank"),
    [(signal.SIGTERM, TENSOR, 1), (signal.SIGUSR1, FOUR, 2), (signal.SIGINT, TENSOR, 0)],
)
def test_a_signal_that_one_rank_hears_stops_all_after_the_step(number, layout, rank, ground, tmp_path):
    whole, stopped = (tiny(ground, tmp_path / name, SELDOM | layout) for name in ("whole", "stopped"))
    finish(whole)
    with pytest.raises(Stopped, match=f"ended by {number.name} after step 2, which is saved"):
        run(stopped, partial(strike, stopped, rank, number))
    assert [p.name for p in Path(stopped.run.folder, "checkpoints").iterdir()] == ["step_0000002"]
    assert not Path(stopped.run.folder, "model").exists()
    finish(stopped)
    assert trained(stopped) == trained(whole)
    assert_same(stopped, whole)


def strike(config: Config, rank: int, number: int, record: dict) -> None:
    note(config)(record)
    if record["step"] == 2 and os.environ["RANK"] == str(rank):
        os.kill(os.getpid(), number)


def test_a_signal_after_the_last_step_changes_nothing(ground, tmp_path):
    config = tiny(ground, tmp_path, SELDOM | {"trainer.max_steps": 2})
    run(config, partial(strike, config, 0, signal.SIGTERM))
    assert (tmp_path / "model").exists()


def test_rollouts_are_interrupted_at_once_and_not_drawn_again(policy_ground, tmp_path):
    changes = test_policy_resume.GFPO | TENSOR | {"trainer.checkpoint_every": 100}
    whole, stopped = (tiny_policy(policy_ground, tmp_path / name, changes) for name in ("whole", "stopped"))
    policy_runs.run(whole)

    def hear_in_the_second_batch() -> None:
        if os.environ["RANK"] == "0":
            on_call(Growing, "add", 90, lambda: os.kill(os.getpid(), signal.SIGTERM))  # 64 lines a batch

    with pytest.raises(Stopped, match="ended by SIGTERM after step 1, which is saved"):
        policy_runs.run(stopped, hear_in_the_second_batch)
    assert len(metrics(stopped)) == 1
    assert (Path(stopped.run.folder) / "rollouts" / "batch_0000002" / "samples.jsonl.partial").exists()
    policy_runs.run(stopped)
    test_policy_resume.assert_same_rollouts(stopped, whole)


def test_the_recipe_hands_the_signal_on_and_tells_its_caller_to_start_it_again(ground, tmp_path):
    metrics_file, overrides = (
        tmp_path / "metrics.jsonl",
        {
            "experiment": "tiny",
            "run.folder": tmp_path,
            "data.folder": ground.data,
            "data.tokenizer": ground.tokenizer,
            "model.vocab_size": VOCABULARY,
            "trainer.max_steps": 10_000,
            "trainer.checkpoint_every": 10_000,
        },
    )
    command = [sys.executable, RECIPE, *(f"{key}={value}" for key, value in overrides.items())]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not metrics_file.exists() or metrics_file.read_text().count("\n") < 2:
        assert process.poll() is None
        time.sleep(0.1)
    process.terminate()
    _, error = process.communicate()
    assert process.returncode == 75
    assert "stopped: ended by SIGTERM after step" in error and "the same command goes on from there" in error
    (saved,) = (tmp_path / "checkpoints").iterdir()
    assert int(saved.name.removeprefix("step_")) == metrics_file.read_text().count("\n")
