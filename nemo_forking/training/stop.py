"""Ending a run early with nothing lost: SIGTERM, SIGUSR1 (which Slurm can send before a time limit), or Ctrl-C.

A rank that hears one notes it; after every step all ranks agree, save, and end together with `Stopped`.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

from nemo_forking.errors import Stopped

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class StopRequest:
    """What this rank has heard."""

    def __init__(self) -> None:
        self._heard = 0
        self._at_once = False

    def listen(self) -> None:
        """From now on signals are noted in place of ending the process; a second Ctrl-C ends it."""
        for number in SIGNALS:
            signal.signal(number, self._hear)

    def agreed(self) -> str | None:
        """The name of a signal that some rank has heard, the same on every rank, or None. One all-reduce (world)."""
        heard = torch.tensor(self._heard, device=torch.cuda.current_device())
        dist.all_reduce(heard, op=dist.ReduceOp.MAX)
        return signal.Signals(int(heard)).name if heard else None

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Inside, a signal raises Stopped where it arrives: for long work that others wait for and that resumes."""
        self._at_once = True  # first, so that no signal falls between
        try:
            if self._heard:
                raise self._stopped()
            yield
        finally:
            self._at_once = False

    def _hear(self, number: int, frame: object) -> None:
        if self._heard and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._heard = number
        if self._at_once:
            self._at_once = False
            raise self._stopped()

    def _stopped(self) -> Stopped:
        return Stopped(signal.Signals(self._heard).name)
