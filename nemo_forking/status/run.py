"""A run as its folder tells of it (docs/run_folder.md), while it goes on or afterwards."""

from __future__ import annotations

import json
import statistics
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from nemo_forking.errors import UserError

State = Literal["not started", "running", "silent", "hung", "failed", "stopped", "finished"]
FRESH = 120.0  # seconds within which a rank's watchdog writes several times
RECENT = 50  # steps that speed is taken from
MARGIN, OFTEN, AMONG = 0.15, 0.5, 20  # a straggler: slower than the median by so much in so many of the last steps


@dataclass(frozen=True)
class Rank:
    """What a rank's watchdog told last (`ranks/`); ages in seconds."""

    rank: int
    node: str
    step: int
    phase: str
    heard: float  # age of the file: whether the process is there
    progress: float  # age of the last sign of progress


@dataclass(frozen=True)
class Straggler:
    """A rank that others wait for: by how much of the median, in what share of the last steps."""

    phase: str
    rank: int
    node: str
    excess: float
    share: float


@dataclass(frozen=True)
class RunStatus:
    """One run; ages and times in seconds, None where it is not known.

    Attributes:
        step, steps: done, and of the whole run.
        lines: of metrics.jsonl.
        age: of the last line.
        seconds_per_step: wall time between the last steps, checkpoints included, pauses of the run left out.
        checkpoint, checkpoint_age: step of the newest checkpoint.
        damaged: names of checkpoints that were put aside.
        hangs: the summaries of attempts that hung, newest last.
        error: last_error.txt.
    """

    folder: Path
    name: str
    state: State
    step: int
    steps: int | None
    lines: list[dict] = field(repr=False)
    age: float | None
    seconds_per_step: float | None
    checkpoint: int | None
    checkpoint_age: float | None
    checkpoint_every: int | None
    damaged: list[str]
    ranks: list[Rank]
    stragglers: list[Straggler]
    hangs: list[str]
    error: str | None

    @property
    def over(self) -> bool:
        """Whether nothing more comes, unless somebody starts it again."""
        return self.state in ("finished", "failed", "hung", "stopped")

    @property
    def progress(self) -> str:
        """Step n of m."""
        return f"step {self.step:,} of {self.steps:,}" if self.steps else f"step {self.step:,}"

    @property
    def left(self) -> float | None:
        """Seconds until the last step, at the speed of the last ones."""
        if self.steps is None or self.seconds_per_step is None or self.state == "finished":
            return None
        return (self.steps - self.step) * self.seconds_per_step

    @property
    def last(self) -> dict:
        """The last step's record."""
        return self.lines[-1] if self.lines else {}


def read_run(folder: str | Path) -> RunStatus:
    """The state of the run in a folder; what is missing or half written is passed over.

    Raises:
        UserError: there is no run.
    """
    folder, now = Path(folder), time.time()
    config = _config(folder / "config.yaml")
    lines = read_lines(folder / "metrics.jsonl")
    if not config and not lines:
        raise UserError(_no_run(folder))
    checkpoint = max(folder.glob("checkpoints/step_*"), default=None)
    trainer = config.get("trainer") or {}
    ranks, pace = _ranks(folder / "ranks", now), _seconds_per_step(lines)
    age = _age(folder / "metrics.jsonl", now)
    hangs, error = _texts(folder / "hang"), _text(folder / "last_error.txt")
    told = None if trainer.get("hang_minutes") else age  # without watchdogs the last line is all there is
    return RunStatus(
        folder=folder,
        name=(config.get("run") or {}).get("name") or folder.name,
        state=_state(folder, ranks, bool(lines), told, pace, now),
        step=lines[-1]["step"] if lines else 0,
        steps=trainer.get("max_steps"),
        lines=lines,
        age=age,
        seconds_per_step=pace,
        checkpoint=None if checkpoint is None else int(checkpoint.name.removeprefix("step_")),
        checkpoint_age=None if checkpoint is None else _age(checkpoint / "extra.json", now),
        checkpoint_every=trainer.get("checkpoint_every"),
        damaged=sorted(path.name for path in folder.glob("checkpoints/damaged_*")),
        ranks=ranks,
        stragglers=stragglers(lines[-AMONG:]),
        hangs=hangs,
        error=error,
    )


def read_lines(path: Path) -> list[dict]:
    """The records of metrics.jsonl: lines that are no JSON of a step are passed over, one of them may be under way."""
    try:
        texts = path.read_bytes().splitlines()
    except OSError:
        return []
    lines = []
    for text in texts:
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(line, dict) and isinstance(line.get("step"), int):
            lines.append(line)
    return lines


def stragglers(lines: list[dict]) -> list[Straggler]:
    """Ranks that were slowest, and clearly, in most of these steps."""
    found = []
    for phase in dict.fromkeys(phase for line in lines for phase in line.get("slowest") or {}):
        slow = [line["slowest"][phase] for line in lines if phase in (line.get("slowest") or {})]
        clear = [one for one in slow if one["seconds"] > (1 + MARGIN) * one["median"]]
        for rank, times in Counter(one["rank"] for one in clear).most_common(1):
            if len(slow) >= AMONG // 2 and times > OFTEN * len(slow):
                of_rank = [one for one in clear if one["rank"] == rank]
                excess = statistics.median(one["seconds"] / max(one["median"], 1e-9) - 1 for one in of_rank)
                found.append(Straggler(phase, rank, of_rank[-1]["node"], excess, times / len(slow)))
    return found


# ---------------------------------------------------------------- parts


def _state(folder: Path, ranks: list[Rank], began: bool, told: float | None, pace: float | None, now: float) -> State:
    if (folder / "model" / "provenance.json").exists():
        return "finished"
    if (folder / "last_error.txt").exists():
        return "failed"  # the next start removes it
    heard = min((rank.heard for rank in ranks), default=told)
    hung = min((_age(file, now) or 0.0 for file in folder.glob("hang/summary.*.txt")), default=None)
    if hung is not None and (heard is None or hung <= heard):
        return "hung"
    if ranks and heard < FRESH:
        return "running"
    if ranks:
        return "silent"  # killed: its watchdogs had no time to clear up
    if told is not None and told < max(FRESH, 10 * (pace or 0)):
        return "running"
    return "stopped" if began else "not started"


def _config(path: Path) -> dict[str, Any]:
    try:
        found = yaml.load(path.read_bytes(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (OSError, yaml.YAMLError, UnicodeDecodeError):
        return {}
    return found if isinstance(found, dict) else {}


def _ranks(folder: Path, now: float) -> list[Rank]:
    ranks = []
    for file in sorted(folder.glob("rank_*.json")):
        try:
            told = json.loads(file.read_bytes())
            heard, progress = now - told["written"], now - told["at"]
            ranks.append(Rank(told["rank"], told["node"], told["step"], told["phase"], heard, progress))
        except (OSError, ValueError, KeyError, TypeError):
            continue  # just being removed
    return ranks


def _seconds_per_step(lines: list[dict]) -> float | None:
    recent = lines[-RECENT - 1 :]
    work = [sum((line.get("seconds") or {}).values()) for line in recent[1:] or recent]
    if not work or not any(work):
        return None
    between = [
        later["time"] - earlier["time"]
        for earlier, later in zip(recent, recent[1:], strict=False)
        if "time" in earlier and "time" in later
    ]
    longest = 20 * statistics.median(work) + 60  # what takes longer is a time in which the run did not run
    between = [seconds for seconds in between if 0 < seconds < longest]
    return statistics.fmean(between or work)


def _age(path: Path, now: float) -> float | None:
    try:
        return max(0.0, now - path.stat().st_mtime)
    except OSError:
        return None


def _text(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return None


def _texts(folder: Path) -> list[str]:
    files = sorted(folder.glob("summary.*.txt"), key=lambda file: int(file.name.split(".")[1]))
    return [text for file in files if (text := _text(file))]


def _no_run(folder: Path) -> str:
    if not folder.is_dir():
        return f"{folder} does not exist: give a run's folder (run.folder)"
    below = sorted(str(file.parent) for file in folder.glob("**/metrics.jsonl"))[:8]
    hint = f"; there are {', '.join(below)}" if below else ""
    return f"{folder} is no run's folder: it has neither config.yaml nor metrics.jsonl{hint}"
