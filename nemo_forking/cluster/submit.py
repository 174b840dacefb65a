"""The stages of a study as dependent Slurm jobs: submitted where they are missing, left alone where under way."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from nemo_forking.cluster import record, slurm
from nemo_forking.cluster.complete import complete_stages
from nemo_forking.cluster.local import LOCK
from nemo_forking.cluster.stages import SCRIPTS, Stage
from nemo_forking.cluster.status import live_state
from nemo_forking.config.launcher import LauncherConfig
from nemo_forking.files import alone

console = Console(stderr=True)


def job_of(stage: Stage, study: str, launcher: LauncherConfig, after: Sequence[int] = ()) -> slurm.Job:
    """The Slurm job of a stage, `<study>-<stage>`, of the size its layout and engine want."""
    script, *word = SCRIPTS[stage.recipe]
    job = slurm.job_of(script, replace(stage.config, launcher=launcher), stage.overrides, after)
    return replace(job, name=f"{study}-{stage.name}", overrides=(*word, *stage.overrides))


def submit_missing(stages: Sequence[Stage], folder: Path, launcher: LauncherConfig) -> dict[str, int]:
    """Submit every stage that is neither complete nor under way, each after the jobs of those it needs.

    A job that waits for jobs which are no longer those of its needs can never start and is replaced: Slurm removes it
    (--kill-on-invalid-dep). Every job is written down as soon as Slurm has it.

    Returns:
        Stage -> job, of those submitted now.

    Raises:
        UserError: another process is at it, a stage that could start cannot be used as it is, or Slurm refuses a job.
    """
    submitted: dict[str, int] = {}
    with alone(folder / LOCK, f"is at work on {folder}"):
        complete, known = complete_stages(stages), record.jobs(folder)
        under_way: dict[str, int] = {}
        for stage in stages:
            if stage.name in complete:
                _say(stage, "complete")
                continue
            after = tuple(under_way[name] for name in stage.needs if name in under_way)
            noted = known.get(stage.name, {})
            if state := _state(noted, after):
                under_way[stage.name] = noted["job"]
                _say(stage, f"{state}, job {noted['job']}")
                continue
            job = slurm.submit(job_of(stage, folder.name, launcher, after), launcher)
            record.note(folder, stage.name, {"job": job, "after": after, "at": time.time()})
            under_way[stage.name] = submitted[stage.name] = job
            _say(stage, f"submitted, job {job}")
    return submitted


def _state(noted: dict, after: tuple[int, ...]) -> str:
    """Whether the job noted for a stage is queued or running; nothing where it waits for jobs other than these."""
    state = live_state(slurm.state(noted["job"])) if noted.get("job") else ""
    return "" if state == "queued" and not set(after) <= set(noted["after"]) else state


def _say(stage: Stage, what: str) -> None:
    console.print(f"{stage.name}: {what}", highlight=False)
