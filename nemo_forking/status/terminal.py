"""The status on a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from nemo_forking.status.run import RunStatus
from nemo_forking.status.words import BAD, FAIR, GOOD, duration, facts, measures, parts

STYLES = {GOOD: "green", FAIR: "yellow", BAD: "red", "": ""}
BLOCKS = "▁▂▃▄▅▆▇█"
WIDTH = 28  # of bars and curves: all fits 80 columns


def picture(run: RunStatus) -> RenderableType:
    """One picture of a run."""
    head = Text.assemble((run.name, "bold"), f"  {run.folder}")
    told = Table.grid(padding=(0, 2))
    told.add_column(style="dim", no_wrap=True)
    told.add_column()
    for label, words, tone in facts(run):
        told.add_row(label, Text(words, style=STYLES[tone]))
        if label == "progress" and run.steps:
            told.add_row("", ProgressBar(total=run.steps, completed=run.step, width=WIDTH))
    curves = Table.grid(padding=(0, 2))
    curves.add_column(style="dim", no_wrap=True)
    curves.add_column(justify="right", no_wrap=True)
    curves.add_column(no_wrap=True)
    for label, last, _, values in measures(run):
        curves.add_row(label, last, spark(values))
    shown: list[RenderableType] = [head, told, Text(), curves]
    if seconds := run.last.get("seconds"):
        words = ", ".join(f"{name} {duration(value)}" for name, value in seconds.items())
        shown.append(Text(f"\nThe last step took {words}", style="dim"))
    return Group(*shown)


def spark(values: Sequence[float], width: int = WIDTH) -> str:
    """A line of blocks: means of equal parts of the run, lowest to highest."""
    means = [sum(values[a:b]) / (b - a) for a, b in parts(len(values), width)]
    low, high = min(means), max(means)
    if not high > low:
        return BLOCKS[0] * len(means)
    return "".join(BLOCKS[min(7, int(8 * (value - low) / (high - low)))] for value in means)
