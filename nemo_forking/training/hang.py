"""What ranks write when a run hangs, and what is made of it: hang/rank_<r>.<attempt>.txt, summary.<attempt>.txt."""

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from nemo_forking.errors import AGAIN, GIVE_UP

FILE = re.compile(r"(?:rank_(\d+)|summary)\.(\d+)\.txt")


@dataclass(frozen=True)
class Report:
    """Where one rank was; see pulse.Pulse. idle: seconds without a sign of progress; place: lines of code."""

    rank: int
    node: str
    pid: int
    job: str | None
    step: int
    phase: str
    entered: int
    idle: float
    place: str

    def header(self, ranks: int) -> str:
        """The first lines of a rank's file: words for readers, then all of it as JSON."""
        job = f", Slurm job {self.job}" if self.job else ""
        return (
            f"rank {self.rank} of {ranks} on {self.node}, process {self.pid}{job}: {self.where()}, "
            f"nothing done for {_time(self.idle)}\n{json.dumps(asdict(self))}"
        )

    def where(self) -> str:
        """Phase and step."""
        return where(self.phase, self.step)


def where(phase: str, step: int) -> str:
    """The same of what a silent rank told last."""
    return f"{phase} (step {step})" if step else phase


def attempts(home: Path) -> int:
    """The highest number of an attempt that hung; 0 for none."""
    return max((int(found[2]) for file in home.glob("*.txt") if (found := FILE.fullmatch(file.name))), default=0)


def read_reports(home: Path, attempt: int) -> dict[int, Report]:
    """Reports by rank; damaged ones are passed over."""
    reports = {}
    for file in home.glob(f"rank_*.{attempt}.txt"):
        try:
            report = Report(**json.loads(file.read_text(errors="replace").splitlines()[1]))
            reports[report.rank] = report
        except (OSError, ValueError, TypeError, IndexError):
            continue
    return dict(sorted(reports.items()))


def exit_status(home: Path, attempt: int) -> int:
    """AGAIN, unless an attempt before this one hung in the same step or a later one."""
    *before, now = (max((r.step for r in read_reports(home, n).values()), default=-1) for n in range(1, attempt + 1))
    return GIVE_UP if before and now <= max(before) else AGAIN


def behind(reports: dict[int, Report]) -> list[int]:
    """Ranks that had come least far, unless all had come as far."""
    come = {rank: (report.step, report.entered) for rank, report in reports.items()}
    return [] if len(set(come.values())) < 2 else [rank for rank in come if come[rank] == min(come.values())]


def summary(
    reports: dict[int, Report], silent: dict[int, dict | None], minutes: float, home: Path, attempt: int
) -> str:
    """Who was where: silent ranks first, then those behind, then the others.

    Args:
        reports: of the ranks that could.
        silent: of the others, what their watchdog had told last.
        minutes: the bound.
        home: folder of the files.
        attempt: number of the attempt.
    """
    lines = [f"hang: no rank has got anything done for {_time(60 * minutes)} (trainer.hang_minutes={minutes:g})"]
    for rank, told in silent.items():
        last = f"last heard in {where(told['phase'], told['step'])} on {told['node']}" if told else "never heard"
        lines.append(f"  rank {rank}: silent (stopped, dead or cut off), {last}  <- look here")
    late = behind(reports)
    for ranks, report in _alike({rank: reports[rank] for rank in late}):
        mark = "" if silent else "  <- behind the others"
        lines.append(f"  {_named(ranks)} on {report.node}: {report.where()} at {report.place}{mark}")
    for ranks, report in _alike({rank: report for rank, report in reports.items() if rank not in late}):
        lines.append(f"  {_named(ranks)} on {report.node}: {report.where()} at {report.place}")
    lines.append(f"  stacks of all threads: {home}/rank_*.{attempt}.txt")
    if exit_status(home, attempt) == GIVE_UP:
        lines.append(f"  it has hung before without coming further: not to be started again (exit status {GIVE_UP})")
    else:
        lines.append(f"  the same command goes on from the newest checkpoint (exit status {AGAIN})")
    return "\n".join(lines)


def _alike(reports: dict[int, Report]) -> list[tuple[list[int], Report]]:
    """Ranks of one node at one place together."""
    groups: dict[tuple, list[int]] = {}
    for rank, report in reports.items():
        groups.setdefault((report.node, report.where(), report.place), []).append(rank)
    return [(ranks, reports[ranks[0]]) for ranks in groups.values()]


def _named(ranks: list[int]) -> str:
    """Rank 3; ranks 0-2, 5."""
    runs: list[list[int]] = []
    for rank in ranks:
        if runs and rank == runs[-1][-1] + 1:
            runs[-1] = [runs[-1][0], rank]
        else:
            runs.append([rank])
    text = ", ".join("-".join(map(str, run)) for run in runs)
    return f"rank{'s' if len(ranks) > 1 else ''} {text}"


def _time(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.1f} minutes"
