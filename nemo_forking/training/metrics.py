"""What a run tells while it goes: metrics.jsonl (an object a step), TensorBoard, a console line or progress bar."""

import json
import os
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter

from nemo_forking.config import Config
from nemo_forking.errors import UserError, warn
from nemo_forking.files import write_aside
from nemo_forking.training.services import open_services

METRICS = "metrics.jsonl"  # of the run; a copy lies in every checkpoint
# what depends on machine and layout; all else is of the run
OF_THE_MACHINE = (
    "time",
    "seconds",
    "tokens_per_s",
    "model_flops_per_s",
    "peak_memory_gib",
    "memory",
    "gpu_utilisation",
    "slowest",
    "imbalance",
    "imbalance_scoring",
)
IMBALANCE = 0.1  # told on the console from here on


class Metrics:
    """Rank 0's record of a run; on a resume, lines of steps that will be trained again are dropped first.

    Args:
        config: the run's.
        done: steps of the run so far.
        line: what of a record is shown on the console between gradient norm and learning rate.
        bar: on a terminal, show a progress bar in place of lines.
    """

    def __init__(self, config: Config, done: int, line: Callable[[dict], list[str]], bar: bool = True):
        folder, self.steps, self.log_every = Path(config.run.folder), config.trainer.max_steps, config.trainer.log_every
        folder.mkdir(parents=True, exist_ok=True)
        self.file, self.line = folder / METRICS, line
        self._keep_until(done)
        self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=done + 1)
        self.console = Console(stderr=True)
        self.bar = None
        if bar and self.console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            columns += (TimeRemainingColumn(), TextColumn("{task.fields[line]}"))
            self.bar = Progress(*columns, console=self.console)
            self.bar.start()
            self.task = self.bar.add_task(config.run.name, total=self.steps, completed=done, line="")
        self.services = open_services(config, self.warn)

    def _keep_until(self, done: int) -> None:
        if not self.file.exists():
            return
        kept = []
        for number, line in enumerate(self.file.read_text(errors="replace").splitlines(keepends=True), 1):
            if not line.endswith("\n"):
                break  # a kill may leave half a line
            try:
                step = json.loads(line)["step"]
            except (ValueError, TypeError, KeyError):
                raise UserError(f"{self.file}, line {number}: not a step's record; remove that line") from None
            if step <= done:
                kept.append(line)
        write_aside(self.file, "".join(kept))

    def write(self, record: dict) -> None:
        """Append one step's record."""
        with open(self.file, "a") as f:
            f.write(json.dumps(record) + "\n")
            f.flush()
            os.fsync(f.fileno())
        found = scalars(record)
        for name, value in found.items():
            self.board.add_scalar(name, value, record["step"])
        for service in self.services:
            service.put(record["step"], found)
        line = console_line(record, self.steps, self.line(record))
        if self.bar:
            self.bar.update(self.task, completed=record["step"], line=line)
        elif record["step"] % self.log_every == 0 or record["step"] == self.steps:
            self.console.print(line, highlight=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        """A line on the console that is not to be overlooked."""
        warn(text, self.console)

    def close(self) -> None:
        """Flush TensorBoard, have services take the rest, and leave the bar as it stands."""
        self.board.close()
        for service in self.services:
            service.close()
        if self.bar:
            self.bar.stop()


def scalars(record: dict, prefix: str = "") -> dict[str, float]:
    """The numbers of a record by name; those of a block as block/name. Lists, words and ranks are no scalars."""
    found = {}
    for key, value in record.items():
        if isinstance(value, dict):
            found |= scalars(value, f"{prefix}{key}/")
        elif isinstance(value, (int, float)) and key not in ("step", "rank", "time"):
            found[prefix + key] = value
    return found


def console_line(record: dict, steps: int, told: list[str]) -> str:
    """One step in one line: step, loss, gradient norm, what the step has to tell, speed, where the time went.

    How much dearer the dearest data-parallel rank's share is than the mean (`imbalance`) only where it is much.
    """
    seconds = record["seconds"]
    parts = [f"step {record['step']}/{steps}", f"loss {record['loss']:.4f}", f"grad {record['grad_norm']:.3f}", *told]
    parts += [f"lr {record['lr']:.2e}", f"{record['tokens_per_s']:,.0f} tok/s"]
    uneven = {"training": record.get("imbalance"), "scoring": record.get("imbalance_scoring")}
    parts += [f"uneven {name} {value:.0%}" for name, value in uneven.items() if value and value > IMBALANCE]
    parts.append("s " + " + ".join(f"{name} {value:.2f}" for name, value in seconds.items()))
    return "  ".join(parts)
