"""What this process is at, and signs that it gets on: told by whoever works, read by a rank's watchdog.

A process is one rank, so there is one pulse, changed by the thread that works. Telling costs next to nothing and needs
no watchdog.
"""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

Piece = TypeVar("Piece")


@dataclass
class Pulse:
    """Where the process is.

    Attributes:
        step: optimizer step, from 1; 0 before the first.
        phase: loading, scoring, exchange, training, fork, refit, rollout, checkpoint or export.
        entered: phases entered in this step; alike on all ranks, so the rank with the fewest is behind.
        beats: signs of progress, of any kind.
        at: time of the last one, seconds since 1970.
        growing: a folder being written, whose growth counts as progress.
    """

    step: int = 0
    phase: str = "loading"
    entered: int = 0
    beats: int = 0
    at: float = field(default_factory=time.time)
    growing: Path | None = None


now = Pulse()


def beat() -> None:
    """A sign of progress."""
    now.beats += 1
    now.at = time.time()


def begin_step(step: int) -> None:
    """Optimizer step `step` (from 1) begins."""
    now.step, now.entered = step, 0
    beat()


def enter(phase: str) -> None:
    """From here on the process is in `phase`."""
    now.phase = phase
    now.entered += 1
    beat()


@contextmanager
def phase(name: str, growing: Path | None = None) -> Iterator[None]:
    """In the block the process is in phase `name`, behind it again in the one before; `growing`: see Pulse."""
    before, folder = now.phase, now.growing
    enter(name)
    now.growing = growing
    try:
        yield
    finally:
        now.growing = folder
        now.phase = before
        beat()


def each(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """The pieces, with a sign of progress at each that is taken."""
    for piece in pieces:
        beat()
        yield piece
