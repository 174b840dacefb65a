"""The whole laptop study as dependent jobs of a real Slurm, one of which is killed on the way."""

import json
import os
import re
import signal
import time
from pathlib import Path

from tests.command_lines import PATIENCE, finish
from tests.run_files import records
from tests.small_study import command

STUDY = [
    "trainer.max_steps=60",
    "study.policies=[{name: gfpo, rule: optimal, scope: tag, tags: every, lr: 2.0e-2, body_lr: 2.0e-4}]",
]
SLURM = ["launcher=slurm", "launcher.time=60", "launcher.free_gib=0.1"]
STAGES = ["questions", "data", "base-data", "prompts", "base-seed1", "optimal-seed1", "random-seed1", "gfpo-seed1"]
STAGES += ["evaluation", "table"]
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

    local = finish(command(here, *STUDY))
    assert "The report is" in local
    for name in ("base", "optimal", "random", "gfpo"):
        assert records(folder / "seed1" / name) == records(here / "seed1" / name)
    ours, theirs = (json.loads((home / "results.json").read_text()) for home in (folder, here))
    assert ours.keys() == theirs.keys() and all(ours[key] == theirs[key] for key in ("rules", "base", "gfpo"))


def reproduce(folder: Path) -> list[str]:
    """The stages that the command submitted."""
    said = finish(command(folder, *STUDY, *SLURM))
    return re.findall(r"^(\S+): submitted, job \d+", said, re.MULTILINE)


def status(folder: Path) -> dict[str, str]:
    """Stage -> what --status says of it."""
    lines = finish(command(folder, *STUDY, "--status")).splitlines()[1 : 1 + len(STAGES)]
    return {name: " ".join(rest.split()) for name, _, rest in (line.partition(" ") for line in lines)}


def submitted(folder: Path) -> dict[str, int]:
    return {name: noted["job"] for name, noted in json.loads((folder / "jobs.json").read_text()).items()}


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
