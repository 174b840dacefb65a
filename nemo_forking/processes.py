"""Of a run's processes: which is the first, and none that outlives the one that started it."""

import ctypes
import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

PR_SET_PDEATHSIG = 1
LONGEST_WAIT = timedelta(hours=1)  # of ranks for what the first finds out
_together = False
_store = None  # the first rank's serves the others until its process ends


def this_rank() -> int:
    """This process's rank, as its launcher told it; 0 without one."""
    return int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", 0)))


def is_first_rank() -> bool:
    """Whether this process is the first, or the only one."""
    return this_rank() == 0


def first_rank_tells(find: Callable[[], Any]) -> Any:
    """What `find` (json) gives on the first rank, on every rank a launcher started: they have no process groups yet.

    Every rank calls it, at most once; without a launcher it is `find()`.
    """
    global _store
    if int(os.environ.get("WORLD_SIZE", 1)) == 1 or "MASTER_ADDR" not in os.environ:
        return find()
    from torch.distributed import rendezvous  # torch: only here

    _store, rank, world = next(rendezvous("env://", timeout=LONGEST_WAIT))
    if rank == 0:
        found = find()
        _store.set("told", json.dumps(found))
        _store.wait([f"heard by {other}" for other in range(1, world)])
        return found
    found = json.loads(_store.get("told"))
    _store.set(f"heard by {rank}", "")
    return found


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
