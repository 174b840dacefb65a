"""What a study's folder keeps about its stages besides their files; whether one is complete is never read from it.

seconds.json  stage -> seconds it took, over all attempts, where it ran in recipes/reproduce.py
jobs.json     stage -> where it was last started: {"job", "after"} under Slurm, {"host", "process"} otherwise; "at" is
              when, and "error" how it ended, where it failed without Slurm
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nemo_forking.errors import UserError
from nemo_forking.files import write_aside

SECONDS, JOBS = "seconds.json", "jobs.json"


def seconds(folder: Path) -> dict[str, float]:
    """Seconds spent in each stage so far."""
    return _read(folder / SECONDS)


@contextmanager
def timed(folder: Path, stage: str) -> Iterator[None]:
    """Adds the seconds of the block to a stage's."""
    started = time.monotonic()
    try:
        yield
    finally:
        known = seconds(folder)
        known[stage] = round(known.get(stage, 0.0) + time.monotonic() - started, 1)
        write_aside(folder / SECONDS, json.dumps(known, indent=1))


def jobs(folder: Path) -> dict[str, dict[str, Any]]:
    """Stage -> where it was last started."""
    return _read(folder / JOBS)


def note(folder: Path, stage: str, facts: dict[str, Any]) -> None:
    """Writes down where a stage was started, or how it ended; the file is whole at any time."""
    write_aside(folder / JOBS, json.dumps(jobs(folder) | {stage: facts}, indent=1))


def _read(file: Path) -> dict:
    if not file.exists():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        return {str(name): value for name, value in found.items()}
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{file} is damaged ({error}); remove it: no result depends on it") from None
