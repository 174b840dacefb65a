"""A run that hangs ends by itself, names the rank that is to blame, and goes on when started again.

The ranks are real: one sleeps where all wait for it, or is stopped by SIGSTOP as a machine would that has gone.
"""

import os
import signal
import time
from pathlib import Path

import pytest

from nemo_forking.config import Config
from nemo_forking.errors import GivenUp, Stopped
from nemo_forking.evaluation.folder import Growing
from nemo_forking.training import hang, step
from nemo_forking.training.launch import fork_ranks
from nemo_forking.training.trainer import train
from tests.distributed import policy_runs
from tests.distributed.policy_runs import on_call, tiny_policy
from tests.distributed.runs import DATA, TENSOR, metrics, run, tiny

SOON = {"trainer.hang_minutes": 4 / 60, "trainer.max_steps": 3, "trainer.checkpoint_every": 1}


def told(config: Config, attempt: int = 1) -> tuple[str, dict[int, str]]:
    """The summary, and every rank's file."""
    home = Path(config.run.folder) / "hang"
    stacks = {rank: (home / f"rank_{rank}.{attempt}.txt").read_text() for rank in hang.read_reports(home, attempt)}
    return (home / f"summary.{attempt}.txt").read_text(), stacks


def after_a_step(config: Config, rank: int, act):
    """In that rank, `act` once the first step is done."""

    def watch(record: dict) -> None:
        if record["step"] == 1 and os.environ["RANK"] == str(rank):
            act()

    return watch


def sleep_at(module, name: str) -> None:
    """In the forked rank: the next call of `module.name` never returns."""
    setattr(module, name, lambda *_, **__: time.sleep(10_000))


def test_a_rank_that_sleeps_in_the_matching_pass_is_named_and_a_second_start_goes_on(ground, tmp_path, capfd):
    config = tiny(ground, tmp_path, SOON | DATA)
    with pytest.raises(Stopped, match="trainer.hang_minutes"):
        run(config, after_a_step(config, 1, lambda: sleep_at(step, "score")))
    summary, stacks = told(config)
    late, waiting = summary.splitlines()[1:3]
    assert late.startswith("  rank 1 on ") and "scoring (step 2)" in late and late.endswith("<- behind the others")
    assert waiting.startswith("  rank 0 on ") and "exchange (step 2)" in waiting
    assert "the same command goes on from the newest checkpoint (exit status 75)" in summary
    assert summary in capfd.readouterr().err
    assert "in <lambda>" in stacks[1] and "gather_costs" in stacks[0]
    assert not list((tmp_path / "checkpoints").glob(".*")) and len(metrics(config)) == 1

    run(config)
    assert len(metrics(config)) == 3 and (tmp_path / "model").exists() and not (tmp_path / "ranks").exists()
    assert hang.attempts(tmp_path / "hang") == 1


def test_a_stopped_rank_is_told_of_by_the_others_and_a_run_that_hangs_there_again_is_given_up(ground, tmp_path):
    config = tiny(ground, tmp_path, SOON | TENSOR)
    with pytest.raises(Stopped):
        fork_ranks(stop_while_scoring, 2, config)
    summary, stacks = told(config)
    assert summary.splitlines()[1].startswith("  rank 1: silent (stopped, dead or cut off), last heard in ")
    assert list(stacks) == [0]
    with pytest.raises(GivenUp, match="hung again without having come further"):  # exit status 70
        fork_ranks(stop_while_scoring, 2, config)
    assert "not to be started again" in told(config, attempt=2)[0]


def stop_while_scoring(config: Config) -> None:
    """In a forked rank: train, but for rank 1, which is stopped at its first step."""
    if os.environ["RANK"] == "1":
        step.score = lambda *_: os.kill(os.getpid(), signal.SIGSTOP)
    train(config)


def test_rollouts_count_as_progress_of_all_ranks_until_they_stand_still(policy_ground, tmp_path):
    config = tiny_policy(policy_ground, tmp_path / "run", SOON | TENSOR | {"trainer.max_steps": 1})

    def slow_then_stuck() -> None:
        if os.environ["RANK"] == "0":
            add = Growing.add

            def add_slowly(growing, line):
                time.sleep(0.4)  # the whole takes more than the bound
                add(growing, line)

            Growing.add = add_slowly
            on_call(Growing, "add", 12, lambda: time.sleep(10_000))

    with pytest.raises(Stopped):
        policy_runs.run(config, slow_then_stuck)
    summary, stacks = told(config)
    assert "rank 0 on" in summary and "rollout (step 1)" in summary and "in <lambda>" in stacks[0]
    partial = Path(config.run.folder) / "rollouts" / "batch_0000001" / "samples.jsonl.partial"
    assert len(partial.read_text().splitlines()) == 12
