"""SSFT on two simulated nodes of a real Slurm, disturbed in every way Slurm has: the same numbers in the end."""

import os
import re
import time
from pathlib import Path

import pytest

from nemo_forking.cluster.slurm import LOGS, job_of, submit
from nemo_forking.config import load
from tests.run_files import assert_same_weights, records
from tests.slurm.conftest import STEPS


@pytest.fixture
def job(cluster, ground, tmp_path):
    """Submits the run; its number and folder."""

    def submitted(*more: str) -> tuple[int, Path]:
        folder = tmp_path / "run"
        overrides = [*ground, f"run.folder={folder}", "layout.nodes=2", f"trainer.max_steps={STEPS}", *more]
        config = load(["launcher=slurm", "launcher.time=60", "launcher.free_gib=0.1", *overrides])
        return submit(job_of("ssft", config, overrides), config.launcher), folder

    yield submitted
    cluster.run("scancel", "--user=root")


def test_two_nodes_train_what_one_machine_trains(cluster, job, whole):
    number, folder = job()
    assert cluster.wait(number)["JobState"] == "COMPLETED", output(number)
    assert "node check: all nodes are fit" in output(number)
    assert_same(folder, whole)


def test_a_job_that_lost_a_node_is_requeued_and_goes_on(cluster, job, whole):
    number, folder = job("trainer.checkpoint_every=20")
    wait_for_steps(cluster, folder, 22)
    cluster.kill_node("n2")
    cluster.wait_until(lambda: cluster.job(number)["Restarts"] == "1", 60, "not requeued")
    cluster.revive_node("n2")
    assert cluster.wait(number)["JobState"] == "COMPLETED", output(number)
    assert_same(folder, whole)


def test_a_job_pre_empted_by_a_higher_priority_saves_and_goes_on(cluster, job, whole):
    number, folder = job("trainer.checkpoint_every=1000")  # all that is kept was saved when it was told to stop
    wait_for_steps(cluster, folder, 12)
    urgent = ["--partition=high", "--nodes=3", "--exclusive", f"--output={os.environ[LOGS]}/urgent.out"]
    second = int(cluster.run("sbatch", "--parsable", *urgent, "--wrap", "sleep 1"))
    assert cluster.wait(second)["JobState"] == "COMPLETED"
    assert cluster.wait(number)["JobState"] == "COMPLETED", output(number)
    assert cluster.job(number)["Restarts"] == "1"
    assert "stopped after SIGTERM; requeued" in output(number)
    assert "which is saved" in attempt_log(number, 0)
    assert_same(folder, whole)


def test_a_job_near_its_time_limit_saves_and_goes_on(cluster, job, whole):
    number, folder = job("trainer.checkpoint_every=1000", "launcher.notice_seconds=120")
    wait_for_steps(cluster, folder, 3)
    limit(cluster, number, minutes=int(running_minutes(cluster, number)) + 2)  # the notice is due, at once
    cluster.wait_until(lambda: cluster.job(number)["Restarts"] == "1", 150, "no notice, or not requeued")
    limit(cluster, number, minutes=60)
    assert cluster.wait(number)["JobState"] == "COMPLETED", output(number)
    assert "SIGUSR1: asking the ranks to save and stop" in output(number)
    assert "stopped after SIGUSR1; requeued" in output(number)
    assert "which is saved" in attempt_log(number, 0)
    assert_same(folder, whole)


def test_a_job_that_fails_says_why_at_its_end_and_is_not_started_again(cluster, job):
    number, _ = job("data.folder=/nowhere")
    assert cluster.wait(number)["JobState"] == "FAILED"
    assert cluster.job(number)["Restarts"] == "0"
    said = output(number)
    assert "failed with status 2" in said
    assert re.search(r"last error of .*rank\d.*:\n  error: /nowhere holds no prepared data", said), said


# ---------------------------------------------------------------- what jobs leave


def output(number: int) -> str:
    """What the job's script said, in all attempts."""
    return next(Path(os.environ[LOGS]).glob(f"*-{number}.out")).read_text()


def attempt_log(number: int, attempt: int) -> str:
    """What rank 0 said in one attempt."""
    return next(Path(os.environ[LOGS]).glob(f"*-{number}.{attempt}.rank0.log")).read_text()


def steps(folder: Path) -> list[dict]:
    """A run's metrics so far, without what depends on the machine."""
    return records(folder) if (folder / "metrics.jsonl").exists() else []


def wait_for_steps(cluster, folder: Path, count: int) -> None:
    cluster.wait_until(lambda: len(steps(folder)) >= count, 600, f"no {count} steps")


def running_minutes(cluster, number: int) -> float:
    started = cluster.job(number)["StartTime"]
    return (time.time() - time.mktime(time.strptime(started, "%Y-%m-%dT%H:%M:%S"))) / 60


def limit(cluster, number: int, minutes: int) -> None:
    cluster.run("scontrol", "update", f"JobId={number}", f"TimeLimit={minutes}")


def assert_same(folder: Path, whole: Path) -> None:
    """Every step's losses, costs and tags, and every weight: equal to the last bit."""
    assert len(steps(whole)) == STEPS
    assert steps(folder) == steps(whole)
    assert_same_weights(folder / "model", whole / "model")
