"""What a step's record tells of the machine: slowest rank of every phase, memory, use of GPUs; one gather a step."""

import resource
import socket
import statistics
from dataclasses import dataclass

import torch
import torch.distributed as dist

from nemo_forking.training.pace import PHASES, pace

MEMORY = ("peak", "allocated", "reserved", "resident", "utilisation")
MARGIN, STEPS = 0.15, 20  # a rank is told of that was slowest by so much in so many steps on end


@dataclass
class Slow:
    """How often on end one rank was slowest in a phase by MARGIN."""

    rank: int = -1
    steps: int = 0


class Comparison:
    """All ranks' pace and memory on global rank 0. Every rank makes one: one gather of the nodes' names."""

    def __init__(self) -> None:
        first = dist.get_rank() == 0
        names = [None] * dist.get_world_size() if first else None
        dist.gather_object(socket.gethostname(), names)
        self.nodes: list[str] = names or []
        self.slow = {phase: Slow() for phase in PHASES}

    def gather(self) -> dict | None:
        """What the step's record is told of the machine, on global rank 0. Collective: one gather (world)."""
        values = torch.tensor(pace.take() + memory(), dtype=torch.float64, device=torch.cuda.current_device())
        if not self.nodes:
            dist.gather(values)
            return None
        everyone = values.new_empty(len(self.nodes), len(values))
        dist.gather(values, list(everyone.unbind(0)))
        columns = [[v if v == v else None for v in column] for column in everyone.T.tolist()]
        memory_of = dict(zip(MEMORY, columns[len(PHASES) :], strict=True))
        worst = _greatest(memory_of["peak"])
        busy = [value for value in memory_of["utilisation"] if value is not None]
        held = {f"{name}_gib": _rounded(memory_of[name][worst], 3) for name in ("allocated", "reserved", "resident")}
        return {
            "peak_memory_gib": _rounded(memory_of["peak"][worst], 3),
            "memory": {"rank": worst, "node": self.nodes[worst], **held},
            "gpu_utilisation": {"mean": statistics.fmean(busy), "least": min(busy)} if busy else None,
            "slowest": {
                phase: self._slowest(column)
                for phase, column in zip(PHASES, columns, strict=False)
                if any(value is not None for value in column)
            },
        }

    def _slowest(self, seconds: list[float | None]) -> dict:
        rank = _greatest(seconds)
        median = statistics.median(value for value in seconds if value is not None)
        told = {"seconds": _rounded(seconds[rank], 6), "median": _rounded(median, 6)}
        return {"rank": rank, "node": self.nodes[rank], **told}

    def stragglers(self, slowest: dict[str, dict]) -> list[str]:
        """Warnings of ranks that all the others have been waiting for; each once."""
        warnings = []
        for phase, found in slowest.items():
            slow, excess = self.slow[phase], found["seconds"] / max(found["median"], 1e-9) - 1
            if excess <= MARGIN:
                self.slow[phase] = Slow()
            elif slow.rank != found["rank"]:
                self.slow[phase] = Slow(found["rank"], 1)
            else:
                slow.steps += 1
                if slow.steps == STEPS:
                    warnings.append(
                        f"rank {found['rank']} ({found['node']}) was the slowest in {phase} for {STEPS} steps on end, "
                        f"now by {excess:.0%} of the median: see `slowest` in metrics.jsonl"
                    )
        return warnings


def _greatest(values: list[float | None]) -> int:
    return max(range(len(values)), key=lambda rank: -1.0 if values[rank] is None else values[rank])


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


# ---------------------------------------------------------------- this rank


def memory() -> list[float]:
    """MEMORY of this rank: GiB at most so far, allocated, reserved, resident in RAM; percent of time its GPU is busy.

    The first is of the GPU where there is one, else of RAM; NaN what there is not.
    """
    gpu, nan = torch.cuda.is_available(), float("nan")
    peak = torch.cuda.max_memory_allocated() if gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    held = (torch.cuda.memory_allocated(), torch.cuda.memory_reserved()) if gpu else (nan, nan)
    return [*(bytes_ / 2**30 for bytes_ in (peak, *held, _resident())), _utilisation() if gpu else nan]


def _resident() -> float:
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except OSError:
        return float("nan")


def _utilisation() -> float:
    """By NVML, of the last second or less; NaN without pynvml, or where the driver does not tell."""
    try:
        return float(torch.cuda.utilization())
    except Exception:  # noqa: BLE001 - ImportError, RuntimeError, NVML's own
        return float("nan")
