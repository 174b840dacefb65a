"""One life of a run: a process of its own, as a recipe's, that forks its ranks; and what it was doing when it ended."""

import ctypes
import mmap
import multiprocessing as mp
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemo_forking import cli
from nemo_forking.config import Config
from nemo_forking.errors import AGAIN, Stopped, UserError
from nemo_forking.evaluation.folder import Growing
from nemo_forking.model import weights
from nemo_forking.processes import end_with_parent
from nemo_forking.rl import rollout
from nemo_forking.training import launch, policy_step, trainer
from nemo_forking.training.checkpoint import Checkpoints
from nemo_forking.training.loop import Loop
from nemo_forking.training.set_loop import SetLoop

LIMIT = 60.0  # seconds; a life that takes longer hangs
WAIT = 0.002  # between two looks at a life
FINISHED, USER_ERROR, RANK_FAILED, BROKEN, STOPPED = 0, 2, 3, 4, AGAIN
PHASES = {  # what a process does -> what it is in meanwhile
    "before the ranks": None,
    "start-up": None,
    "loading a checkpoint": (Checkpoints, "resume"),
    "matching": (SetLoop, "prepare"),
    "reading the fork": (policy_step, "tag_logprobs"),
    "export": (weights, "export"),
    "rollouts": (rollout, "draw_samples"),
    "grading": (rollout, "grade_samples"),
    "saving a checkpoint": (Checkpoints, "save"),
    "training": (Loop, "on_train_batch_start"),
    "after training": (trainer, "export"),
}
NAMES = list(PHASES)


class Trace:
    """What every process of a life is doing: memory shared with it, a slot each, the recipe's own process first."""

    FIELDS = ("pid", "phase", "step", "entered")

    def __init__(self, ranks: int) -> None:
        self.slots, width = ranks + 1, len(self.FIELDS)
        self._memory = memoryview(mmap.mmap(-1, 4 * width * self.slots)).cast("i")

    def get(self, slot: int, field: str) -> int:
        """A field of a slot; 0 before the process is there."""
        return self._memory[slot * len(self.FIELDS) + self.FIELDS.index(field)]

    def set(self, slot: int, **values: int) -> None:
        """Set fields of a slot."""
        for field, value in values.items():
            self._memory[slot * len(self.FIELDS) + self.FIELDS.index(field)] = value

    def where(self) -> tuple[str, int]:
        """Phase and step (from 1; 0 before the first) of rank 0, or of the process before there is a rank."""
        slot = 1 if self.get(1, "pid") else 0
        return NAMES[self.get(slot, "phase")], self.get(slot, "step")

    def install(self) -> None:
        """In a life's process: note the phases, in the ranks forked from it too."""
        self.set(0, pid=os.getpid(), phase=NAMES.index("before the ranks"))
        real = launch._rank_main

        def rank_main(function, rank, *rest):
            self.set(rank + 1, pid=os.getpid(), phase=NAMES.index("start-up"), entered=1)
            real(function, rank, *rest)

        launch._rank_main = rank_main
        for name, place in PHASES.items():
            if place:
                owner, function = place
                setattr(owner, function, self._noted(name, getattr(owner, function)))

    def _noted(self, name: str, function: Callable) -> Callable:
        stays = name in ("training", "after training")  # what follows such a call belongs to it

        def noted(*args: Any, **kwargs: Any) -> Any:
            slot = int(os.environ.get("RANK", -1)) + 1
            before = self.get(slot, "phase")
            self.set(slot, phase=NAMES.index(name), entered=self.get(slot, "entered") + 1)
            if name == "training":
                self.set(slot, step=args[1].global_step + 1)
            result = function(*args, **kwargs)
            if not stays:
                self.set(slot, phase=before)
            return result

        return noted


@dataclass
class Life:
    """A run under way, or ended.

    Attributes:
        status: how it ended: 0, 2 and 75 as recipes do, 3 where a rank failed, 4 by another exception, or minus a
            signal's number; None while it lives.
    """

    process: Any
    log: Path
    trace: Trace
    status: int | None = None

    def ended(self) -> bool:
        """Whether it has ended."""
        self.status = self.process.exitcode
        return self.status is not None

    def told(self) -> str:
        """Everything it printed."""
        return self.log.read_text(errors="replace")

    def message(self) -> str:
        """The error that it told its user, on one line."""
        told = self.told()
        return told[told.rfind("error: ") :].strip().replace("\n", " ")

    def must(self, status: int) -> None:
        """RuntimeError where it ended otherwise: what campaigns rest on could not be made."""
        if self.status != status:
            raise RuntimeError(f"status {self.status} where {status} was expected ({self.log}):\n{self.told()}")


def begin(
    config: Config, start: Callable[[Config], None], log: Path, prepare: Callable[[], None] | None = None
) -> Life:
    """Start a life; `prepare`, a function of nothing, is called first in its process."""
    trace = Trace(config.layout.processes)
    log.parent.mkdir(parents=True, exist_ok=True)
    process = mp.get_context("fork").Process(target=_live, args=(config, start, log, trace, prepare))
    process.start()
    return Life(process, log, trace)


def wait(life: Life, limit: float = LIMIT) -> bool:
    """Wait for its end; False where it hung and was ended."""
    life.process.join(limit)
    hung = not life.ended()
    if hung:
        life.process.kill()
        life.process.join()
        life.ended()
    return not hung


def live(config: Config, start: Callable[[Config], None], log: Path, prepare=None, limit: float = LIMIT) -> Life:
    """A whole life, undisturbed; one that hangs has status -9."""
    life = begin(config, start, log, prepare)
    wait(life, limit)
    return life


def _live(config: Config, start: Callable[[Config], None], log: Path, trace: Trace, prepare) -> None:
    end_with_parent()
    with log.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, cli._stop)  # as every recipe does
    status = FINISHED
    try:
        trace.install()
        if prepare:
            prepare()
        start(config)
    except UserError as error:
        status = _tell(f"error: {error}", USER_ERROR)
    except Stopped as stopped:
        status = _tell(f"stopped: {stopped}", STOPPED)
    except launch.RankFailed as error:
        status = _tell(f"RankFailed: {error}", RANK_FAILED)
    except BaseException:
        status = _tell(traceback.format_exc(), BROKEN)
    finally:
        os._exit(status)


def _tell(text: str, status: int) -> int:
    print(text, file=sys.stderr, flush=True)
    return status


@contextmanager
def adopting() -> Iterator[None]:
    """Inside, processes that lose their parent become this one's children, so that `left_over` sees them."""
    set_subreaper = ctypes.CDLL(None).prctl
    set_subreaper(36, 1, 0, 0, 0)
    try:
        yield
    finally:
        set_subreaper(36, 0, 0, 0, 0)


def left_over(patience: float = 10.0) -> list[str]:
    """Command lines of processes that outlived their life by more than `patience` seconds; they are ended."""
    until = time.monotonic() + patience
    while children := _reaped():
        if time.monotonic() > until:
            break
        time.sleep(WAIT)
    found = []
    for child in children:
        found.append(Path(f"/proc/{child}/cmdline").read_text().replace("\0", " ")[:200])
        os.kill(child, signal.SIGKILL)
    return found


def _reaped() -> list[int]:
    """Children that live; dead ones are waited for."""
    alive = []
    for child in map(int, Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()):
        try:
            if os.waitpid(child, os.WNOHANG)[0] == 0:
                alive.append(child)
        except ChildProcessError:
            pass
    return alive


def die() -> None:
    """This process is killed."""
    os.kill(os.getpid(), signal.SIGKILL)


def kills_add(call: int) -> Callable[[], None]:
    """`prepare` of a life: the process that adds its `call`-th line to samples or verdicts is killed there."""

    def prepare() -> None:
        add, calls = Growing.add, []

        def counted(growing: Growing, line: dict) -> None:
            calls.append(1)
            if len(calls) == call:
                die()
            add(growing, line)

        Growing.add = counted

    return prepare


def send(life: Life, pid: int, number: int) -> bool:
    """Send a signal to one of a life's processes; False where it is gone."""
    if life.process.is_alive():
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return False
        return True
    return False
