"""The main tables on the console."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from textwrap import fill

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from nemo_forking.evaluation.report.policies import TITLE, policies
from nemo_forking.evaluation.report.results import load, parse
from nemo_forking.evaluation.report.style import looks
from nemo_forking.evaluation.report.table import Table
from nemo_forking.evaluation.report.tables import spread_note, summary


def print_table(results: Path | dict, console: Console | None = None) -> None:
    """Summary and policies of a run folder, or of results.json's content, on a rich Console or standard output."""
    known = parse(results) if isinstance(results, dict) else load(Path(results))
    looks_of = looks(known.systems, known.variants)
    console = console or Console()
    models = replace(known, benchmarks=known.models)  # variants are in the page
    console.print(_shown(summary(models, looks_of), f"{known.title}: {spread_note(known)}"))
    if (learned := policies(known, looks_of)) is not None:
        console.print(_shown(learned, f"{TITLE} (Pass@1, %)"))


def _shown(table: Table, title: str) -> RichTable:
    """A table as far as a narrow console has room for it."""
    kept = [place for place, label in enumerate(table.columns) if label not in table.aside]
    shown = RichTable(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for place in kept:  # a long name is folded, a figure never is
        shown.add_column(_label(table, place), justify="right" if place else "left", no_wrap=place > 0, overflow="fold")
    for name, rows in table.bodies:
        if name:
            shown.add_row(Text(name, style="bold"))
        for row in rows:
            shown.add_row(*(Text(row[place].text) for place in kept))
        shown.add_section()
    return shown


def _label(table: Table, place: int) -> str:
    """A column's label, on several lines where it is wider than what stands below."""
    label = table.columns[place]
    widest = max(len(row[place].text) for _, rows in table.bodies for row in rows)
    return label.replace(", ", ",\n") if ", " in label else fill(label, max(widest, 1), break_long_words=False)
