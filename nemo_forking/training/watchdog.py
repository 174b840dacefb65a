"""Ends a run that hangs: every rank writes the stacks of its threads and exits, without a collective.

Ranks do not all work at all times: most of them wait while one rolls out or writes. So a run hangs when *no* rank has
given a sign of progress (nemo_forking.pulse) for the bound. Every rank's watchdog thread puts its rank's pulse into
`ranks/`, and looks at the others' only when its own rank has been idle for so long. Clocks of the nodes must agree to a
fraction of the bound (Slurm's munge asks for five minutes).

A rank that cannot speak (stopped, dead, its node cut off) is told of by the others as silent; the launcher ends it
with them: `fork_ranks`, torchrun and `srun --kill-on-bad-exit` all do.
"""

import contextlib
import faulthandler
import json
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

from nemo_forking import pulse
from nemo_forking.config import Config
from nemo_forking.processes import this_rank
from nemo_forking.training import last_error
from nemo_forking.training.hang import Report, attempts, exit_status, read_reports, summary

TICK = 30.0  # seconds between looks, at most
STALL = 10.0  # that a slow disk may hold up a look


@contextlib.contextmanager
def watched(config: Config) -> Iterator[None]:
    """Everything a rank does in a run: hangs end it (`trainer.hang_minutes`), errors are kept in the run's folder."""
    folder, rank = Path(config.run.folder), this_rank()
    watchdog = Watchdog(folder, config.trainer.hang_minutes, rank=rank, ranks=config.layout.processes)
    with last_error.kept(folder, rank), watchdog:
        yield


class Watchdog:
    """A context manager around everything a rank does in a run.

    Args:
        folder: of the run.
        minutes: the bound; 0 for no watchdog.
        rank: this one.
        ranks: how many there are.
    """

    def __init__(self, folder: Path, minutes: float, *, rank: int, ranks: int):
        self.rank, self.ranks, self.bound = rank, ranks, 60 * minutes
        self.tick = min(TICK, self.bound / 20)
        self.patience = min(60.0, max(1.0, self.bound / 4))  # for the others' reports
        self.home, self.pulses = folder / "hang", folder / "ranks"
        self.node, self.ended = socket.gethostname(), threading.Event()
        self.thread: threading.Thread | None = None

    def __enter__(self) -> "Watchdog":
        if self.bound:
            self.attempt = attempts(self.home) + 1
            self.main = threading.main_thread().ident
            self.since = time.time()
            self.thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
            self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """The run's end, or an error, which the launcher brings to the other ranks."""
        if self.thread:
            self.ended.set()
            self.thread.join()
            faulthandler.cancel_dump_traceback_later()
            with contextlib.suppress(OSError):
                self._pulse_of(self.rank).unlink(missing_ok=True)
                self.pulses.rmdir()  # the last one does

    # ------------------------------------------------------------

    def _watch(self) -> None:
        idle, beats, size, looked = 0.0, -1, None, time.monotonic()
        while True:
            # should C code keep Python's lock, so that this thread cannot run, the stacks go to the log at least
            faulthandler.dump_traceback_later(self.bound + 2 * self.tick)
            self._tell()
            if self.ended.wait(self.tick):
                return
            elapsed, looked = time.monotonic() - looked, time.monotonic()
            idle += min(elapsed, self.tick + STALL)  # more than that: the process itself was stopped (scontrol suspend)
            if self.rank == 0 and size != (size := _size(pulse.now.growing)):
                pulse.beat()
            if beats != pulse.now.beats:
                idle, beats = 0.0, pulse.now.beats
            elif idle >= self.bound and not self._others_get_on():
                self._end(idle)

    def _tell(self) -> None:
        now = pulse.now
        told = {"rank": self.rank, "node": self.node, "pid": os.getpid(), "step": now.step, "phase": now.phase}
        told |= {"at": now.at, "written": time.time(), "since": self.since}
        with contextlib.suppress(OSError):  # a full disk is told by those who write what counts
            _write(self._pulse_of(self.rank), json.dumps(told))

    def _pulse_of(self, rank: int) -> Path:
        return self.pulses / f"rank_{rank:04d}.json"

    def _others_get_on(self) -> bool:
        """Whether some other rank has given a sign of progress within the bound; first rank 0, which may work alone."""
        for rank in range(self.ranks):
            if rank != self.rank and (told := self._told_by(rank)) and time.time() - told["at"] < self.bound:
                return True
        return False

    def _told_by(self, rank: int) -> dict | None:
        try:
            return json.loads(self._pulse_of(rank).read_text())
        except (OSError, ValueError):
            return None

    def _end(self, idle: float) -> None:
        """Write this rank's stacks, tell who is where, and end the process."""
        report = Report(
            rank=self.rank,
            node=self.node,
            pid=os.getpid(),
            job=os.environ.get("SLURM_JOB_ID"),
            step=pulse.now.step,
            phase=pulse.now.phase,
            entered=pulse.now.entered,
            idle=idle,
            place=_place(sys._current_frames().get(self.main)),
        )
        with contextlib.suppress(OSError):
            self.home.mkdir(parents=True, exist_ok=True)
            final = self.home / f"rank_{self.rank}.{self.attempt}.txt"
            aside = final.with_name(f".{final.name}.partial")
            with aside.open("w") as file:
                file.write(report.header(self.ranks) + "\n\n")
                file.flush()
                faulthandler.dump_traceback(file)
                os.fsync(file.fileno())
            aside.replace(final)
        with contextlib.suppress(OSError):
            self._sum_up(report)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exit_status(self.home, self.attempt))

    def _sum_up(self, report: Report) -> None:
        """Wait a little for the other ranks' reports; the first of those that reported tells of all."""
        told, until = self.home / f"summary.{self.attempt}.txt", time.monotonic() + self.patience
        while len(reports := read_reports(self.home, self.attempt)) < self.ranks and time.monotonic() < until:
            if told.exists():
                return
            time.sleep(min(0.1, self.tick))
        if reports and self.rank != min(reports):
            until = time.monotonic() + self.patience  # whoever exits first brings all others down
            while not told.exists() and time.monotonic() < until:
                time.sleep(min(0.1, self.tick))
            return
        silent = {rank: self._told_by(rank) for rank in range(self.ranks) if rank not in reports}
        text = summary(reports or {self.rank: report}, silent, self.bound / 60, self.home, self.attempt)
        print(text, file=sys.stderr, flush=True)
        _write(told, text + "\n")


def _place(frame) -> str:
    """Where the working thread is: the innermost line of our own code, and what it has called."""
    stack = traceback.extract_stack(frame) if frame else []
    ours = [line for line in stack if "nemo_forking" in line.filename]
    told = [*ours[-1:], *([] if ours[-1:] == stack[-1:] else stack[-1:])]
    return " > ".join(f"{'/'.join(Path(line.filename).parts[-3:])}:{line.lineno} {line.name}" for line in told)


def _size(folder: Path | None) -> int | None:
    """Bytes in a folder, whatever comes and goes meanwhile."""
    if folder is None:
        return None
    total = 0
    for path in (os.path.join(where, name) for where, _, names in os.walk(folder) for name in names):
        with contextlib.suppress(OSError):
            total += os.stat(path).st_size
    return total


def _write(path: Path, text: str) -> None:
    """Whole or not at all; unlike files.write_aside without waiting for the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.partial")
    aside.write_text(text)
    aside.replace(path)
