"""What a run tells while it goes: metrics.jsonl (an object a step), TensorBoard, a console line or progress bar."""

import json
import os
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter

from nemo_forking.errors import UserError
from nemo_forking.files import write_aside

# what depends on machine and layout; all else is of the run
OF_THE_MACHINE = ("seconds", "tokens_per_s", "model_flops_per_s", "peak_memory_gib", "imbalance", "imbalance_scoring")


class Metrics:
    """Rank 0's record of a run; on a resume, lines of steps that will be trained again are dropped first.

    Args:
        folder: of the run.
        name: of the run.
        steps: of the whole run.
        done: of the run so far.
        log_every: steps between lines on the console.
        line: what of a record is shown there between gradient norm and learning rate.
        bar: on a terminal, show a progress bar in place of lines.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        steps: int,
        done: int,
        log_every: int,
        line: Callable[[dict], list[str]],
        bar: bool = True,
    ):
        folder.mkdir(parents=True, exist_ok=True)
        self.file, self.steps, self.log_every, self.line = folder / "metrics.jsonl", steps, log_every, line
        self._keep_until(done)
        self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=done + 1)
        self.console = Console(stderr=True)
        self.bar = None
        if bar and self.console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            columns += (TimeRemainingColumn(), TextColumn("{task.fields[line]}"))
            self.bar = Progress(*columns, console=self.console)
            self.bar.start()
            self.task = self.bar.add_task(name, total=steps, completed=done, line="")

    def _keep_until(self, done: int) -> None:
        if not self.file.exists():
            return
        kept = []
        for number, line in enumerate(self.file.read_text().splitlines(keepends=True), 1):
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
        for key, value in record.items():
            if isinstance(value, (int, float)) and key != "step":
                self.board.add_scalar(key, value, record["step"])
        line = console_line(record, self.steps, self.line(record))
        if self.bar:
            self.bar.update(self.task, completed=record["step"], line=line)
        elif record["step"] % self.log_every == 0 or record["step"] == self.steps:
            self.console.print(line, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Flush TensorBoard and leave the bar as it stands."""
        self.board.close()
        if self.bar:
            self.bar.stop()


def console_line(record: dict, steps: int, told: list[str]) -> str:
    """One step in one line: step, loss, gradient norm, what the step has to tell, speed, where the time went."""
    seconds = record["seconds"]
    parts = [f"step {record['step']}/{steps}", f"loss {record['loss']:.4f}", f"grad {record['grad_norm']:.3f}", *told]
    parts += [f"lr {record['lr']:.2e}", f"{record['tokens_per_s']:,.0f} tok/s"]
    parts.append("s " + " + ".join(f"{name} {value:.2f}" for name, value in seconds.items()))
    return "  ".join(parts)
