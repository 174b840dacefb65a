"""What a job asks of srun, by the real scripts, with an srun that writes it down: containers need a cluster of GPUs."""

import os
import re
import subprocess
import sys

import pytest

from nemo_forking.cluster.slurm import LOGS, PYTHON, ROOT

SRUN = """#!/bin/sh
for word in "$@"; do case $word in --output=*) echo "all nodes are fit" > "${word#--output=}";; esac; done
echo "$MASTER_ADDR:$MASTER_PORT $*" >> "$SAID"
"""
SCONTROL = """#!/bin/sh
case "$2" in hostnames) echo n1; echo n2;; *) echo "NodeName=$3 NodeAddr=10.0.0.${3#n} State=IDLE";; esac
"""
CONTAINER = ["launcher.container='nvcr.io#nvidia/nemo:25.07'", "launcher.mounts=[/data:/data, /a:/b]"]


@pytest.fixture
def steps(tmp_path, monkeypatch):
    """Runs slurm/ssft.sbatch on an allocation of two nodes of two ranks: every srun's meeting point and words."""
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    allocation = {"SLURM_JOB_NUM_NODES": "2", "SLURM_TASKS_PER_NODE": "2(x2)", "SLURM_JOB_NODELIST": "n[1-2]"}
    paths = {"SLURM_SUBMIT_DIR": str(ROOT), LOGS: str(tmp_path / "logs"), PYTHON: sys.executable}
    said = tmp_path / "said"

    def run(*more: str, job: int = 7, attempt: int = 0) -> list[list[str]]:
        said.unlink(missing_ok=True)
        own = {"SLURM_JOB_NAME": "ssft", "SLURM_JOB_ID": str(job), "SLURM_RESTART_COUNT": str(attempt)}
        words = ["slurm/ssft.sbatch", "experiment=tiny", "launcher=slurm", "layout.nodes=2", *more]
        environment = os.environ | allocation | paths | own | {"SAID": str(said)}
        done = subprocess.run(["bash", *words], cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0 and done.stdout.endswith(": done\n"), done.stdout + done.stderr
        return [line.split(" ", 1) for line in said.read_text().splitlines()]

    return run


def test_nodes_are_checked_before_every_rank_is_a_task_of_one_step(steps, tmp_path):
    (_, check), (_, ranks) = steps()
    assert "--nodes=2 --nodelist=n1,n2 --ntasks=4 --ntasks-per-node=2" in check and "cluster.node_check " in check
    assert "--nodes=2 --nodelist=n1,n2 --ntasks=4 --ntasks-per-node=2" in ranks
    assert "--kill-on-bad-exit=1 --wait=1800" in ranks and f"--output={tmp_path}/logs/ssft-7.0.rank%t.log" in ranks
    assert ranks.endswith("recipes/ssft.py experiment=tiny launcher=slurm layout.nodes=2")
    assert "--container" not in check + ranks


def test_every_step_runs_in_the_container_with_checkout_logs_and_mounts(steps, tmp_path):
    for _, words in steps(*CONTAINER):
        assert f"--container-image=nvcr.io#nvidia/nemo:25.07 --container-workdir={ROOT} --container-writable" in words
        mounts, command = re.search(r"--container-mounts=(\S+) (.*)", words).groups()
        logs = tmp_path / "logs"
        assert {f"{ROOT}:{ROOT}", f"{logs}:{logs}", "/data:/data", "/a:/b"} <= set(mounts.split(","))
        assert command.startswith("slurm/rank.sh python ")


def test_ranks_of_different_jobs_and_attempts_meet_at_different_ports(steps):
    places = [place for job, attempt in ((7, 0), (8, 0), (7, 1)) for place, _ in steps(job=job, attempt=attempt)]
    assert len(set(places)) == 3 and all(place.startswith("10.0.0.1:") for place in places)
