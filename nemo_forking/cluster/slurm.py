"""Submitting the scripts of slurm/ and asking what became of them. Nothing here imports torch or NeMo.

    python -m nemo_forking.cluster.slurm ssft experiment=ssft_math_32b layout=16xh100 launcher.partition=gpu

submits one job with the nodes and GPUs its layout wants, and prints its number. `--dry-run` prints the sbatch command.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nemo_forking.config import Config, load
from nemo_forking.config.launcher import LauncherConfig
from nemo_forking.config.written import key_of, written
from nemo_forking.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "slurm"
LOGS = "NEMO_FORKING_LOGS"  # environment variable: folder of the jobs' logs
PYTHON = "NEMO_FORKING_PYTHON"  # environment variable: a python that can read the configuration on every node
IN_JOB = ("requeue", "container", "mounts", "venv", "notice_seconds", "serving_nodes", "free_gib")  # launcher's keys
REMEDIES = {  # what sbatch says -> what can be done
    "Invalid partition": "set launcher.partition to one that `sinfo` lists",
    "Invalid account": "set launcher.account to one that `sacctmgr show assoc user=$USER` lists for the partition",
    "Invalid qos": "set launcher.qos to one that `sacctmgr show assoc user=$USER` lists",
    "Requested time limit": "set launcher.time to what the partition allows: `sinfo -o '%P %l'`",
    "Invalid --time": "write launcher.time as days-hours:minutes:seconds, such as 1-00:00:00",
    "Requested node configuration": "the partition has no such nodes: choose another layout or launcher.partition",
    "More processors requested": "the partition has not as many: choose another layout or launcher.partition",
    "Node count specification": "the partition has not as many nodes: choose another layout or launcher.partition",
    "Invalid generic resource": "Slurm knows no such GPUs there: choose another launcher.partition",
    "Job dependency problem": "a job it waits for is not known any more: leave that one out",
    "Unable to contact slurm controller": "the cluster's controller does not answer: try again",
}


@dataclass(frozen=True)
class Job:
    """One job to be submitted.

    Attributes:
        script: name in slurm/ without its ending, such as "ssft".
        overrides: command line of the recipe; the first word of "prepare" names one (see slurm/prepare.sbatch).
        name: what squeue shows, and the beginning of its logs' names.
        nodes: machines.
        tasks_per_node: ranks on each.
        gpus_per_node: GPUs on each; 0 for none.
        after: jobs that must have completed before.
    """

    script: str
    overrides: tuple[str, ...]
    name: str
    nodes: int
    tasks_per_node: int
    gpus_per_node: int
    after: tuple[int, ...] = ()


def job_of(script: str, config: Config, overrides: Sequence[str], after: Sequence[int] = ()) -> Job:
    """The job that runs a script with a configuration, of the size that its layout wants."""
    layout, serving = config.layout, serving_nodes(script, config)
    gpus = layout.devices if layout.accelerator == "gpu" else 0
    nodes, tasks = {
        "ssft": (layout.nodes, layout.devices),
        "gfpo": (layout.nodes + serving, layout.devices),
        "evaluate": (max(1, serving), 1),
    }.get(script, (1, 1))
    if script in ("prepare", "convert"):
        gpus = 0
    return Job(script, tuple(overrides), f"{script}-{config.run.name}", nodes, tasks, gpus, tuple(after))


def serving_nodes(script: str, config: Config) -> int:
    """Nodes that run vLLM replicas: none where the engine is no server, or nothing is generated."""
    generates = script in ("gfpo", "evaluate") and config.engine.name == "server"
    return config.launcher.serving_nodes if generates else 0


def submit(job: Job, launcher: LauncherConfig, *, dry_run: bool = False) -> int | str:
    """Submits a job to Slurm, from the root of the checkout.

    Returns:
        The job's number, or with `dry_run` the sbatch command line.

    Raises:
        UserError: there is no such script, no sbatch here, or sbatch refuses: its own words, and a remedy.
    """
    words = command(job, launcher)
    if dry_run:
        return shlex.join(words)
    (ROOT / os.environ.get(LOGS, "logs")).mkdir(parents=True, exist_ok=True)
    done = _slurm(words, {PYTHON: os.environ.get(PYTHON, sys.executable)})
    if done.returncode:
        said = done.stderr.strip() or done.stdout.strip() or f"exit status {done.returncode}"
        remedy = next((remedy for words, remedy in REMEDIES.items() if words.lower() in said.lower()), "see `sinfo`")
        raise UserError(f"{job.name} was not submitted. {said}\n  remedy: {remedy}\n  command: {shlex.join(words)}")
    return int(done.stdout.strip().split(";")[0])


def command(job: Job, launcher: LauncherConfig) -> list[str]:
    """The sbatch command line of a job."""
    script = SCRIPTS / f"{job.script}.sbatch"
    if not script.is_file():
        known = ", ".join(sorted(path.stem for path in SCRIPTS.glob("*.sbatch")))
        raise UserError(f"there is no {script}; choose from {known}")
    logs = os.environ.get(LOGS, "logs")
    options = {
        "chdir": str(ROOT),
        "job-name": job.name,
        "output": f"{logs}/%x-%j.out",
        "nodes": job.nodes,
        "ntasks-per-node": job.tasks_per_node,
        "gpus-per-node": job.gpus_per_node or None,
        "time": launcher.time,
        "signal": f"B:USR1@{launcher.notice_seconds}",
        "partition": launcher.partition,
        "account": launcher.account,
        "qos": launcher.qos,
        "dependency": "afterok:" + ":".join(map(str, job.after)) if job.after else None,
        "kill-on-invalid-dep": "yes" if job.after else None,
    }
    words = [f"--{name}={value}" for name, value in options.items() if value is not None]
    requeue = "--requeue" if launcher.requeue else "--no-requeue"
    whole = ["--exclusive"] if job.gpus_per_node and not _shares(launcher) else []
    arguments = [*job.overrides, *_launcher_overrides(launcher, job.overrides)]
    return ["sbatch", "--parsable", *words, requeue, *whole, *launcher.extra, str(script), *arguments]


def job_config(words: Sequence[str]) -> Config:
    """The configuration of a script's command line; words that set nothing are left out, and the launcher is Slurm."""
    overrides = [word for word in words if "=" in word]
    return load(overrides if "launcher" in map(key_of, overrides) else [*overrides, "launcher=slurm"])


def field(job_id: int | str, name: str) -> str:
    """What `scontrol show job` has under a name, such as "StartTime"; empty where the controller knows no such job.

    Raises:
        UserError: the controller does not answer, so that nobody knows whether a job runs.
    """
    done = _slurm(["scontrol", "show", "job", str(job_id), "--oneliner"])
    if done.returncode and "Invalid job id" not in done.stderr:
        raise UserError(f"Slurm does not answer: {done.stderr.strip()}; try again")
    found = re.search(rf"\b{name}=(\S+)", done.stdout)
    return found[1] if found else ""


def state(job_id: int) -> str:
    """A job's state in Slurm's own word ("PENDING", "RUNNING", "COMPLETED", "FAILED", ...); "UNKNOWN" if none knows it.

    Slurm's controller forgets a job some minutes after its end; then its accounting is asked, where there is one.
    """
    if word := field(job_id, "JobState"):
        return word
    try:
        done = _slurm(["sacct", "--noheader", "--parsable2", "--allocations", "--format=State", f"--jobs={job_id}"])
    except UserError:
        return "UNKNOWN"
    words = done.stdout.split()  # "CANCELLED by 1000" is one state of three words
    return words[0] if words and not done.returncode else "UNKNOWN"


def _shares(launcher: LauncherConfig) -> bool:
    """Whether launcher.extra says itself how much of a node a job takes."""
    return any(re.match("--(exclusive|oversubscribe|cpus-per|mem)", word) for word in launcher.extra)


def _launcher_overrides(launcher: LauncherConfig, overrides: Sequence[str]) -> list[str]:
    """What the job itself must know of the launcher, where its command line does not say it."""
    said = set(map(key_of, overrides))
    values = {"launcher": "slurm"} | {f"launcher.{name}": getattr(launcher, name) for name in IN_JOB}
    return [f"{key}={written(value)}" for key, value in values.items() if key not in said]


def _slurm(words: Sequence[str], changes: dict[str, str] | None = None) -> subprocess.CompletedProcess:
    """A Slurm command. What Slurm told the job we may be in is left out: it would hold for the new one too."""
    kept = {name: value for name, value in os.environ.items() if name[:6] != "SLURM_" or name == "SLURM_CONF"}
    try:
        return subprocess.run(words, cwd=ROOT, env=kept | (changes or {}), capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise UserError(
            f"{words[0]} is not here: jobs are submitted from a machine with Slurm's commands; with launcher=local "
            "this machine does the work itself"
        ) from None


def main(argv: Sequence[str]) -> int:
    """The command of this file's head."""
    words = [word for word in argv if word != "--dry-run"]
    try:
        if not words:
            raise UserError("usage: python -m nemo_forking.cluster.slurm SCRIPT [key=value ...] [--dry-run]")
        script, *overrides = words
        config = job_config(overrides)
        print(submit(job_of(script, config, overrides), config.launcher, dry_run=len(words) < len(argv)))
        return 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
