"""Jobs with nodes that serve: GFPO and an evaluation over replicas, and a job that starts with the wrong size.

The replicas are those of tests/serving/local_server.py, in the place of vLLM's.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from nemo_forking.cluster.slurm import LOGS, ROOT, job_of, state, submit
from nemo_forking.config import load
from nemo_forking.config.written import written
from tests.command_lines import finish
from tests.slurm.test_jobs import output, steps

SERVED = ["engine=server", "engine.device=cpu", "engine.server.timeout=60", "launcher.serving_nodes=1"]


@pytest.fixture(scope="module")
def model(ground, tmp_path_factory) -> Path:
    """A model with tags, trained for two steps."""
    folder = tmp_path_factory.mktemp("model") / "run"
    recipe("ssft", [*ground, f"run.folder={folder}", "trainer.max_steps=2"])
    return folder / "model"


@pytest.fixture(scope="module")
def policy(ground, model) -> list[str]:
    """Overrides of two steps of GFPO."""
    return [*ground, f"model.base={model}", "trainer.max_steps=2", "batch.questions=4", "rollout.max_tokens=12"]


@pytest.fixture
def replicas(cluster, monkeypatch):
    """Jobs start these in the place of `vllm`."""
    monkeypatch.setenv("NEMO_FORKING_VLLM", str(ROOT / "tests" / "slurm" / "stand_in_vllm"))


def recipe(name: str, overrides: list[str]) -> None:
    finish([sys.executable, f"recipes/{name}.py", *overrides])


def run_job(cluster, script: str, overrides: list[str]) -> str:
    """Submits the job and waits for it; what it said."""
    config = load(["launcher=slurm", "launcher.time=60", "launcher.free_gib=0.1", *overrides])
    number = submit(job_of(script, config, overrides), config.launcher)
    assert cluster.wait(number)["JobState"] == "COMPLETED", output(number)
    return output(number)


def test_gfpo_on_a_node_that_trains_and_one_that_serves_is_the_run_in_one_process(cluster, policy, replicas, tmp_path):
    run_job(cluster, "gfpo", [*policy, f"run.folder={tmp_path / 'served'}", *SERVED])
    recipe("gfpo", [*policy, f"run.folder={tmp_path / 'whole'}", "engine.device=cpu"])
    assert len(steps(tmp_path / "whole")) == 2
    assert steps(tmp_path / "served") == steps(tmp_path / "whole")


def test_an_evaluation_serves_one_model_after_the_other_and_reports_all(cluster, ground, model, replicas, tmp_path):
    other = tmp_path / "other"
    other.symlink_to(model)
    systems = [{"name": "one", "model": str(model)}, {"name": "two (2)", "model": str(other), "tags": "own"}]
    asked = ["layout.devices=1", "layout.tensor=1", "benchmarks.many_ways.rounds=1", "evaluation.max_tokens=12"]
    overrides = [
        *ground,
        f"run.folder={tmp_path / 'run'}",
        f"evaluation.systems={written(systems)}",
        *asked,
        *SERVED,
        "launcher.serving_nodes=2",
    ]
    said = run_job(cluster, "evaluate", overrides)
    assert f"2 replicas of {model} are starting" in said and f"2 replicas of {other} are starting" in said
    results = json.loads((tmp_path / "run" / "evaluation" / "results.json").read_text())
    assert set(results["benchmarks"]["many_ways"]["systems"]) == {"one", "two (2)"}


def test_a_job_of_the_wrong_size_submits_itself_again(cluster, ground, tmp_path):
    overrides = [*ground, f"run.folder={tmp_path / 'run'}", "layout.nodes=2", "launcher.free_gib=0.1"]
    command = ["sbatch", "--parsable", f"--output={os.environ[LOGS]}/%x-%j.out", "--time=17", "slurm/ssft.sbatch"]
    done = subprocess.run([*command, *overrides], cwd=ROOT, capture_output=True, text=True, check=True)
    first = int(done.stdout)
    assert cluster.wait(first)["JobState"] == "COMPLETED"
    second = int(re.search(r"submitted again as job (\d+), of the right size", output(first))[1])
    assert "ssft wants 2 nodes, 2 tasks and 0 GPUs on each, but this job has 1 nodes, 1 tasks" in output(first)
    shown = cluster.job(second)
    assert (shown["NumNodes"].split("-")[0], shown["NumTasks"], shown["TimeLimit"]) == ("2", "4", "00:17:00")
    assert state(second) in ("PENDING", "RUNNING")
    cluster.run("scancel", str(second))
    assert cluster.wait(second)["JobState"] == "CANCELLED"  # and not requeued by its own script
