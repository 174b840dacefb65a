"""How fast this rank is by itself, to find the one that all wait for.

A phase ends for all ranks when its collectives do, so its whole time tells nothing of single ranks. Measured is each
rank's own time until it arrives where it waits for the others:

    scoring, fork   from the first micro-batch until the gather of what was scored
    training        from the first micro-batch until the reduction of gradients over data-parallel ranks
    probe           a product of matrices of fixed size before each step, which waits for nobody

Ranks of one model replica (tensor, pipeline, context) wait for one another inside a pass: their times there are those
of the slowest of them, and only the probe tells them apart. On a GPU all times are of the GPU, by events in the stream,
so nothing waits for being measured. Work of rank 0 alone (exchange, refit, rollout) has no slowest rank.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

PHASES = ("probe", "scoring", "fork", "training")
PROBE = {"cuda": 4096, "cpu": 128}  # rows of the probe's matrices
REPEATS = 8  # products: a millisecond or two in all


class Pace:
    """This rank's own seconds in the present step."""

    def __init__(self) -> None:
        self.spans: dict[str, list[tuple]] = {}
        self.began: tuple[str, object] | None = None
        self.factors: tuple[torch.Tensor, torch.Tensor] | None = None

    def begin(self, phase: str) -> None:
        """Own work of a phase begins."""
        self.began = phase, _mark()

    def arrive(self) -> None:
        """It has come to where it waits for others."""
        if self.began:
            phase, start = self.began
            self.spans.setdefault(phase, []).append((start, _mark()))
            self.began = None

    @contextmanager
    def of(self, phase: str) -> Iterator[None]:
        """The block is own work of a phase."""
        self.begin(phase)
        yield
        self.arrive()

    @torch.no_grad()
    def probe(self) -> None:
        """Time a product of matrices, alone."""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        if self.factors is None:
            size, dtype = PROBE[device], torch.bfloat16 if device == "cuda" else torch.float32
            factor = torch.full((size, size), 1 / size, dtype=dtype, device=device)
            self.factors = factor, torch.empty_like(factor)
        factor, product = self.factors
        with self.of("probe"):
            for _ in range(REPEATS):
                torch.mm(factor, factor, out=product)

    def take(self) -> list[float]:
        """Seconds of PHASES in this step, NaN for those it did not have; the next step begins from nothing."""
        spans, self.spans, self.began = self.spans, {}, None
        return [sum(_between(*span) for span in spans[name]) if name in spans else float("nan") for name in PHASES]


pace = Pace()
"""Of this process, which is one rank."""


def _mark():
    """A moment: of the GPU's stream, or of the clock."""
    if not torch.cuda.is_available():
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _between(start, end) -> float:
    if isinstance(start, float):
        return end - start
    end.synchronize()
    return start.elapsed_time(end) / 1000
