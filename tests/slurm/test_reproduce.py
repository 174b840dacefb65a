"""The whole laptop study as dependent jobs of a real Slurm, one of which is killed on the way."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from nemo_forking.cluster.slurm import ROOT
from nemo_forking.training.metrics import OF_THE_MACHINE

SMALL = [
    "study.base.max_steps=12",
    "study.base.questions=4",
    "study.questions.base=40",
    "study.questions.train=10",
    "study.questions.heldout=5",
    "benchmarks.many_ways.rounds=2",
    "evaluation.max_tokens=12",
    "trainer.max_steps=60",
    "trainer.checkpoint_every=2",
    "batch.questions=3",
    "study.questions.rl=8",
    "study.policy.max_steps=2",
    "study.policy.questions=4",
    "study.policies=[{name: gfpo, rule: optimal, scope: tag, tags: every, lr: 2.0e-2, body_lr: 2.0e-4}]",
    "rollout.max_tokens=12",
]
SLURM = ["launcher=slurm", "launcher.time=60", "launcher.free_gib=0.1"]
STAGES = ["questions", "data", "base-data", "prompts", "base-seed1", "optimal-seed1", "random-seed1", "gfpo-seed1"]
STAGES += ["evaluation", "table"]
PATIENCE = 1500  # seconds for what takes one minute on a machine without other work
LOST = ["optimal-seed1", "gfpo-seed1", "evaluation", "table"]  # the stage that is killed, and those that need it


def test_a_study_of_dependent_jobs_ends_with_the_numbers_of_a_local_one_though_a_job_is_killed(cluster, tmp_path):
    folder, here = tmp_path / "jobs", tmp_path / "here"
    assert list(reproduce(folder)) == STAGES
    jobs = submitted(folder)
    metrics = folder / "seed1" / "optimal" / "metrics.jsonl"
    cluster.wait_until(lambda: metrics.exists() and metrics.read_text().count("\n") > 5, PATIENCE, "no step")
    during = status(folder)
    assert re.match(r"running step \d+ of 60, since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d, job \d+", during["optimal-seed1"])
    assert re.match(rf"queued job {jobs['gfpo-seed1']}, waits for", during["gfpo-seed1"])
    kill_a_rank(f"run.folder={folder}/seed1/optimal")
    for name in STAGES:
        ended = cluster.wait(jobs[name], PATIENCE)["JobState"]
        assert ended == {"optimal-seed1": "FAILED"}.get(name, "CANCELLED" if name in LOST else "COMPLETED"), name

    after = status(folder)
    assert re.match(r"failed job \d+ FAILED, step \d+ of 60, n\d: rank \d: ", after["optimal-seed1"])
    assert after["random-seed1"].startswith("complete") and after["gfpo-seed1"] == "waiting for optimal-seed1"
    assert list(reproduce(folder)) == LOST  # nothing else is submitted again
    again = submitted(folder)
    assert {name for name in STAGES if again[name] != jobs[name]} == set(LOST)
    assert list(reproduce(folder)) == []  # what is queued or running is left alone
    for name in LOST:
        assert cluster.wait(again[name], PATIENCE)["JobState"] == "COMPLETED", name
    assert set(status(folder).values()) == {"complete"}
    assert list(reproduce(folder)) == []

    local = run("experiment=tiny", f"run.folder={here}", *SMALL)
    assert "The report is" in local
    for name in ("base", "optimal", "random", "gfpo"):
        assert without_clock(folder / "seed1" / name) == without_clock(here / "seed1" / name)
    ours, theirs = (json.loads((home / "results.json").read_text()) for home in (folder, here))
    assert ours.keys() == theirs.keys() and all(ours[key] == theirs[key] for key in ("rules", "base", "gfpo"))


def reproduce(folder: Path) -> list[str]:
    """The stages that the command submitted."""
    said = run("experiment=tiny", f"run.folder={folder}", *SMALL, *SLURM)
    return re.findall(r"^(\S+): submitted, job \d+", said, re.MULTILINE)


def status(folder: Path) -> dict[str, str]:
    """Stage -> what --status says of it."""
    lines = run("experiment=tiny", f"run.folder={folder}", *SMALL, "--status").splitlines()[1 : 1 + len(STAGES)]
    return {name: " ".join(rest.split()) for name, _, rest in (line.partition(" ") for line in lines)}


def submitted(folder: Path) -> dict[str, int]:
    return {name: noted["job"] for name, noted in json.loads((folder / "jobs.json").read_text()).items()}


def run(*words: str) -> str:
    done = subprocess.run([sys.executable, "recipes/reproduce.py", *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def kill_a_rank(override: str) -> None:
    """SIGKILL to one of the processes that train with an override."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            except OSError:
                continue
            if override in words and words[1:2] == ["recipes/ssft.py"]:
                os.kill(int(entry.name), signal.SIGKILL)
                time.sleep(0.1)
                return
    raise AssertionError(f"nobody trains with {override}")


def without_clock(run: Path) -> list[dict]:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in record.items() if key not in OF_THE_MACHINE} for record in records]
