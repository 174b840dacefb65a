"""What preparing the data prints: problems, counts, lengths, and one sample with its loss mask."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from nemo_forking.data.problems import KINDS, Report
from nemo_forking.data.prompt import loss_mask
from nemo_forking.data.token_file import Question
from nemo_forking.tags import Tags

LEARNT, GIVEN = "bold green", "dim"
SAMPLE_ENDS = 120  # tokens shown at either end of a long part of the sample


@contextmanager
def progress_bar(console: Console, label: str) -> Iterator[Callable[[int, int], None]]:
    """Give the function to call with (bytes done, all bytes); the bar with the time left appears at its first call."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeElapsedColumn())
    bar = Progress(*columns, TextColumn("left"), TimeRemainingColumn(), console=console)
    task = bar.add_task(label, total=None)

    def advance(done: int, total: int) -> None:
        bar.start()
        bar.update(task, completed=done, total=total)

    try:
        yield advance
    finally:
        if bar.live.is_started:
            bar.stop()


def print_problems(console: Console, report: Report) -> None:
    """Print how many problems of each kind there are, and the first ones of each.

    A strict run has one problem, which its error tells, so nothing is printed for it.
    """
    if report.strict:
        return
    if not report.counts:
        console.print("No problems found.")
        return
    table = Table("problem", "count", "what happens", title="Problems in the source files")
    table.columns[1].justify = "right"
    for kind, count in report.counts.most_common():
        table.add_row(kind, str(count), KINDS[kind][0])
    console.print(table)
    for kind, count in report.counts.most_common():
        for problem in report.examples[kind]:
            console.print(Text(str(problem)), soft_wrap=True)
        if count > len(report.examples[kind]):
            console.print(f"  .. and {count - len(report.examples[kind])} more {kind}", style="dim")


def print_summary(console: Console, manifest: dict) -> None:
    """Print counts and the length statistics of a manifest."""
    counts = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in manifest["counts"].items())
    console.print(counts, soft_wrap=True)
    lengths = manifest["lengths"]
    both = {"prompt": lengths["prompt"], "target": lengths["target"]}
    console.print(_length_table("tokens", both, ("count", "total", "mean", "p50", "p90", "p99", "max")))
    console.print(_length_table("targets of", lengths["teacher"], ("count", "mean", "max")))


def _length_table(title: str, rows: dict[str, dict], columns: tuple[str, ...]) -> Table:
    table = Table(title)
    for column in columns:
        table.add_column(column, justify="right")
    for name, statistics in rows.items():
        table.add_row(Text(name, overflow="fold"), *(f"{statistics[column]:,}" for column in columns))
    return table


def print_sample(
    console: Console, question: Question, teachers: list[str], tags: Tags, tokenizer, include_tag: bool
) -> None:
    """Print the first trace of a question as the model meets it: tokens in [[ ]] are learnt, the others are given.

    On a terminal control tokens stand in reverse, so that they differ from the same characters quoted as text.

    Args:
        console: where to print.
        question: question of a prepared folder.
        teachers: names of the folder's teachers.
        tags: tags of the run; the first one is shown.
        tokenizer: the run's tokenizer, with the tags added.
        include_tag: whether the tag is learnt (`loss.include_tag`).
    """
    trace = question.traces[0]
    ids_T = np.concatenate([question.prompt, tags.ids_NK[0], trace.ids])
    mask_T = loss_mask(len(question.prompt), tags.length, len(trace.ids), include_tag)
    start = int(np.argmax(mask_T))
    text = Text("\n")
    for style, part_T in ((GIVEN, ids_T[:start]), (LEARNT, ids_T[start:])):
        text.append("[[" if style == LEARNT else "")
        text.append_text(_decoded(part_T, tokenizer, style))
    text.append("]]")
    title = f"Sample: question {question.id}, trace by {teachers[trace.teacher]}, with the first tag"
    console.print(Text(title, style="bold"), soft_wrap=True)
    console.print(Text(f"{len(ids_T)} tokens, {int(mask_T.sum())} learnt (those between [[ and ]])"))
    console.print(text, soft_wrap=True)


def _decoded(ids_T: np.ndarray, tokenizer, style: str) -> Text:
    """Decode run by run, control tokens apart from text; the middle of a long part is left out."""
    left_out = len(ids_T) - 2 * SAMPLE_ENDS
    if left_out > 0:
        shown = _decoded(ids_T[:SAMPLE_ENDS], tokenizer, style)
        shown.append(f" .. {left_out} tokens .. ", style="italic")
        return shown.append_text(_decoded(ids_T[-SAMPLE_ENDS:], tokenizer, style))
    text, run = Text(), []
    control = set(tokenizer.get_added_vocab().values())
    for token in [*ids_T.tolist(), None]:
        if token is not None and token not in control:
            run.append(token)
            continue
        text.append(tokenizer.decode(run), style=style)
        run = []
        if token is not None:
            text.append(tokenizer.decode([token]), style=f"{style} reverse")
    return text
