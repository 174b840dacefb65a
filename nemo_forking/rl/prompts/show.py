"""What preparing RL prompts prints about the rows it read, and one prompt."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from nemo_forking.rl.prompts.prompt import Prompt
from nemo_forking.rl.prompts.read import Reading

SHOWN = 1200  # characters of the sample


def print_reading(console: Console, reading: Reading) -> None:
    """Print what became of the rows, and messages about malformed ones."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("Rows read", overflow="fold")
    table.add_column(f"{reading.rows:,}", justify="right", no_wrap=True)
    table.add_row("prompts", f"{len(reading.prompts):,}")
    table.add_row("repeat an earlier row, id and all", f"{reading.repeated:,}")
    for reason, count in reading.left_out.most_common():
        table.add_row(Text(f"left out: {reason}"), f"{count:,}")
    for field, count in reading.skipped.most_common():
        table.add_row(Text(f"malformed: {field}"), f"{count:,}")
    console.print(table)
    for message in reading.examples:
        console.print(Text(message), soft_wrap=True)
    if reading.skipped.total() > len(reading.examples):
        console.print(f"  .. and {reading.skipped.total() - len(reading.examples):,} malformed rows more", style="dim")


def print_sample(console: Console, prompt: Prompt) -> None:
    """Print one prompt as the model's user asks it, and its answer."""
    gold = prompt.gold if isinstance(prompt.gold, str) else "tests"
    console.print(Text(f"\nSample: {prompt.answer} question {prompt.id}, gold: {gold}", style="bold"), soft_wrap=True)
    message = prompt.prompt
    if len(message) > SHOWN:
        message = f"{message[: SHOWN // 2]} .. {len(message) - SHOWN:,} characters .. {message[-SHOWN // 2 :]}"
    console.print(Text(message), soft_wrap=True)
