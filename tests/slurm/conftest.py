"""A simulated cluster for a test session (make test-slurm; skipped in make test), and what its jobs train on."""

import os
import sys
from pathlib import Path

import pytest

from nemo_forking.cluster.slurm import LOGS, PYTHON, ROOT
from nemo_forking.config import load
from nemo_forking.data.prepare import prepare
from nemo_forking.rl.prompts import prepare_prompts
from nemo_forking.tasks import many_ways
from tests.command_lines import finish
from tests.slurm.cluster import Cluster, install

REQUIRED = "NEMO_FORKING_REQUIRE_SLURM"  # set by make test-slurm


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    """Three nodes of four processors; commands of Slurm in this process speak to it."""
    if not os.environ.get(REQUIRED):
        pytest.skip("a Slurm of one's own: make test-slurm")
    if why := install():
        pytest.fail(why)
    before = dict(os.environ)
    os.environ[LOGS], os.environ[PYTHON] = str(tmp_path_factory.mktemp("logs")), sys.executable
    os.environ["PYTHONPATH"] = str(ROOT)
    with Cluster(tmp_path_factory.mktemp("slurm")) as running:
        os.environ["SLURM_CONF"] = running.environment["SLURM_CONF"]
        yield running
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def ground(tmp_path_factory) -> list[str]:
    """Overrides of a small run on generated data, prepared: traces, and questions of reinforcement learning."""
    folder = tmp_path_factory.mktemp("ground")
    many_ways.make_tokenizer(folder / "tokenizer")
    many_ways.write(folder / "source", base=10, train=64, rl=8, heldout=8, seed=0)
    overrides = [
        "experiment=tiny",
        f"data.tokenizer={folder}/tokenizer",
        f"data.source=[{folder}/source/train.jsonl]",
        f"data.folder={folder}/data",
        f"benchmarks.many_ways.source={folder}/source/heldout.jsonl",
        f"prompts.source=[{folder}/source/rl.jsonl]",
        f"prompts.folder={folder}/prompts",
        "trainer.log_every=10",
    ]
    prepare(load(overrides).data)
    prepare_prompts(load(overrides))
    return overrides


STEPS = 200  # half a minute to a minute, so that something can happen meanwhile


@pytest.fixture(scope="session")
def whole(ground, tmp_path_factory) -> Path:
    """Run folder of an undisturbed run on this machine, without Slurm."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    words = [*ground, f"run.folder={folder}", "layout.devices=4", f"trainer.max_steps={STEPS}"]
    finish([sys.executable, "recipes/ssft.py", *words])
    return folder
