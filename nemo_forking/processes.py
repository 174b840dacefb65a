"""Of a run's processes: which is the first, and none that outlives the one that started it."""

import ctypes
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

PR_SET_PDEATHSIG = 1
_together = False


def this_rank() -> int:
    """This process's rank, as its launcher told it; 0 without one."""
    return int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", 0)))


def is_first_rank() -> bool:
    """Whether this process is the first, or the only one."""
    return this_rank() == 0


def end_with_parent() -> None:
    """This process is killed when the thread that started it ends, however that comes about. Linux only."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


@contextmanager
def ending_together() -> Iterator[None]:
    """Processes forked by this one inside (by any library) end with it: none goes on writing after it was killed."""
    global _together
    before, _together = _together, True
    try:
        yield
    finally:
        _together = before


def _after_fork() -> None:
    if _together:
        end_with_parent()
        if os.getppid() != _parent:
            os.kill(os.getpid(), signal.SIGKILL)  # it was quicker


def _before_fork() -> None:
    global _parent
    _parent = os.getpid()


_parent = 0
os.register_at_fork(before=_before_fork, after_in_child=_after_fork)
