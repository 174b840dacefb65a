"""What became of every stage, told from its files, from who holds the study's lock, and from Slurm."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from nemo_forking.cluster import record, slurm
from nemo_forking.cluster.complete import lacking
from nemo_forking.cluster.last_error import ENDED, by_error
from nemo_forking.cluster.local import LOCK
from nemo_forking.cluster.stages import Stage
from nemo_forking.errors import UserError
from nemo_forking.status.run import read_lines

QUEUED = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD")
RUNNING = ("RUNNING", "CONFIGURING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING")
COLOURS = {"complete": "green", "running": "cyan", "queued": "blue", "failed": "red", "refused": "red"}


@dataclass(frozen=True)
class Told:
    """A stage's state (complete, running, queued, stopped, failed, refused or waiting) and what is to be said of it."""

    stage: Stage
    state: str
    detail: str = ""


def status(stages: Sequence[Stage], folder: Path) -> list[Told]:
    """The state of every stage, in the stages' order."""
    known, at_work = record.jobs(folder), is_at_work(folder)
    complete: set[str] = set()
    told = []
    for stage in stages:
        one = _told(stage, known.get(stage.name, {}), complete, at_work)
        if one.state == "complete":
            complete.add(stage.name)
        told.append(one)
    return told


def show(told: Sequence[Told], console: Console) -> None:
    """Print a line for every stage."""
    wide = max(len(one.stage.name) for one in told)
    console.print(f"{'stage':<{wide}}  state", style="bold")
    for one in told:
        line = f"{one.stage.name:<{wide}}  {one.state:<8}  {one.detail}".rstrip()
        console.print(line, style=COLOURS.get(one.state), markup=False, highlight=False, soft_wrap=True)
    done = sum(one.state == "complete" for one in told)
    console.print(f"{done} of {len(told)} stages are complete", style="bold")


def is_at_work(folder: Path) -> bool:
    """Whether a process on any machine that sees the folder runs this study, or is submitting it."""
    try:
        with (folder / LOCK).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def progress(stage: Stage) -> str:
    """How far a training run is, "step 12 of 250", by its metrics; nothing for another stage, or before a step."""
    trains = stage.recipe in ("ssft", "gfpo")
    lines = read_lines(Path(stage.config.run.folder) / "metrics.jsonl") if trains else []
    return f"step {lines[-1]['step']:,} of {stage.config.trainer.max_steps:,}" if lines else ""


def last_error(stage: Stage, job: int) -> str:
    """Why a job failed: how its first task ended, in Slurm's words, and the last line of the error that a rank left."""
    logs = slurm.ROOT / os.environ.get(slurm.LOGS, "logs")
    attempts = sorted(logs.glob(f"*-{job}.*.srun.log"), key=lambda log: log.stat().st_mtime_ns)
    ended, errors = "", []
    if attempts:
        if found := ENDED.search(attempts[-1].read_text(errors="replace")):
            ended = f"{found[1]}: rank {found[2]}: {found[3]}"
        errors = list(by_error(attempts[-1].with_name(attempts[-1].name.removesuffix(".srun.log"))))
    file = Path(stage.config.run.folder) / "last_error.txt"
    if stage.recipe in ("ssft", "gfpo") and file.is_file():
        errors.insert(0, file.read_text(errors="replace"))
    lines = [line.strip() for error in errors[:1] for line in error.splitlines() if line.strip()]
    return _joined(ended, *lines[-1:])


def live_state(word: str) -> str:
    """Whether a job of this state is queued or running; nothing for one that has ended, or that Slurm does not know."""
    return "queued" if word in QUEUED else "running" if word in RUNNING else ""


def _told(stage: Stage, noted: dict, complete: set[str], at_work: bool) -> Told:
    waits = [name for name in stage.needs if name not in complete]
    try:
        lacks = None if waits else lacking(stage)
    except UserError as error:
        return Told(stage, "refused", _line(str(error)))
    if not waits and lacks is None:
        return Told(stage, "complete")
    where = progress(stage)
    if job := noted.get("job"):
        word = slurm.state(job)
        state = live_state(word)
        if state == "running":
            since = slurm.field(job, "StartTime").replace("T", " ")
            return Told(stage, state, _joined(where, f"since {since}", f"job {job}"))
        if state == "queued":
            return Told(stage, state, _joined(f"job {job}", f"waits for {', '.join(waits)}" if waits else "", where))
        if not waits:
            error = last_error(stage, job) or f"its job ended, but {lacks}"
            return Told(stage, "failed", _joined(f"job {job} {word}", where, error))
    elif noted and not waits:
        if "error" in noted:
            return Told(stage, "failed", _joined(where, _line(noted["error"])))
        if at_work:
            return Told(stage, "running", _joined(where, f"since {_clock(noted['at'])}", f"process {noted['process']}"))
    if waits:
        return Told(stage, "waiting", f"for {', '.join(waits)}")
    return Told(stage, "stopped" if where else "waiting", _joined(where, lacks or ""))


def _clock(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def _line(text: str) -> str:
    return " ".join(text.split())


def _joined(*parts: str) -> str:
    return ", ".join(part for part in parts if part)
