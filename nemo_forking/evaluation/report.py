"""The readable result of a run: a console table, a Markdown report and one self-contained HTML page."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path

from nemo_forking.evaluation import plots
from nemo_forking.evaluation.page import Image, html_page, markdown_page
from nemo_forking.evaluation.results import (
    System,
    first_samples,
    load_results,
    mean_and_error,
    systems_of,
    with_curves,
)
from nemo_forking.files import write_aside

SHOWN_QUESTIONS = 12  # questions whose completions the report shows in full


def print_table(results: dict, console=None) -> None:
    """The summary table on the console (a rich Console, or standard output)."""
    from rich.console import Console
    from rich.table import Table

    systems = systems_of(results)
    table = Table(title=f"{results.get('experiment', 'run')}: {spread_note(systems)}", title_justify="left")
    table.add_column("rule")
    for _, label, _ in summary_columns(systems):
        table.add_column(label, justify="right")
    for name, cells in summary_rows(systems):
        table.add_row(name, *cells)
    (console or Console()).print(table)


def write_report(folder: Path) -> tuple[Path, Path]:
    """Writes report.html, report.md and plots/*.png in a run folder, each aside and renamed; returns the first two.

    Raises:
        UserError: results.json or a samples file is missing or damaged; nothing is written then.
    """
    results = load_results(folder)
    systems = [with_curves(system, folder) for system in systems_of(results)]
    figures = draw_figures(systems)
    content = {
        "title": results.get("experiment", folder.name),
        "spread": spread_note(systems),
        "columns": [label for _, label, _ in summary_columns(systems)],
        "rows": summary_rows(systems),
        "questions": side_by_side({system.name: first_samples(system, folder) for system in systems}),
        "seconds": seconds_table(results.get("seconds") or {}),
        "provenance": flat(results.get("provenance") or {}),
        "tags": tag_count(systems),
    }
    linked = {name: Image(f"plots/{name}.png", _shown_width(image)) for name, image in figures.items()}
    embedded = {name: Image(_data_url(image), _shown_width(image)) for name, image in figures.items()}
    html, markdown = html_page(content, embedded), markdown_page(content, linked)

    (folder / "plots").mkdir(exist_ok=True)
    for name, image in figures.items():
        write_aside(folder / linked[name].source, image)
    write_aside(folder / "report.md", markdown)
    write_aside(folder / "report.html", html)
    return folder / "report.html", folder / "report.md"


def summary_columns(systems: Sequence[System]) -> list[tuple[str, str, bool]]:
    """Key, label and whether it is a rate, for every column of the summary."""
    tags = tag_count(systems)
    return [
        ("pass@1", "Pass@1", True),
        ("best_tag_pass@1", "Best tag", True),
        (f"cons@{tags}", f"Cons@{tags}", True),
        (f"pass@{tags}", f"Pass@{tags}", True),
        ("mutual_information_bits", "I(tag; route), bits", False),
    ]


def summary_rows(systems: Sequence[System]) -> list[tuple[str, list[str]]]:
    """Name and formatted cells of every system; rates in percent, `mean ± standard error`."""
    rows = []
    for system in systems:
        cells = []
        for key, _, rate in summary_columns(systems):
            mean, error = mean_and_error(system, key)
            scale, digits = (100, 1) if rate else (1, 2)
            spread = "" if error is None else f" ± {scale * error:.{digits}f}"
            cells.append(f"{scale * mean:.{digits}f}{spread}")
        rows.append((system.name, cells))
    return rows


def spread_note(systems: Sequence[System]) -> str:
    """What the figures behind ± are, and over how many questions and seeds."""
    first = systems[0].runs
    asked = f"{first[0]['questions']} held-out questions" if "questions" in first[0] else "held-out questions"
    if len(first) > 1:
        others = "; base: one model, ± over questions" if len(systems[-1].runs) == 1 else ""
        return f"mean ± standard error over {len(first)} seeds; {asked}{others}"
    return f"one seed; ± is the standard error over {asked}"


def tag_count(systems: Sequence[System]) -> int:
    """Number of tags N."""
    return len(systems[0].runs[0]["per_tag"])


def draw_figures(systems: Sequence[System]) -> dict[str, bytes]:
    """Every plot of the report as PNG bytes, by name; those without data are left out."""
    rates = [(key, label) for key, label, rate in summary_columns(systems) if rate]
    figures = {
        "rules": plots.bars_by_rule(systems, rates),
        "training": plots.training_curves(systems),
        "routes": plots.route_maps(systems),
        "kinds": plots.kind_maps(systems),
        "tags": plots.tags_by_rule(systems),
    }
    return {name: plots.png(figure) for name, figure in figures.items() if figure is not None}


def side_by_side(samples_of: dict[str, list[dict]]) -> list[dict]:
    """A few questions, the kinds in turn, each with every system's first completion under every tag."""
    first = {name: [sample for sample in samples if sample["round"] == 0] for name, samples in samples_of.items()}
    known: dict[str, dict] = {}
    for sample in (sample for samples in first.values() for sample in samples):
        known.setdefault(sample["question"], sample)
    by_kind: dict[str, list[str]] = {}
    for question, sample in known.items():
        by_kind.setdefault(sample["kind"], []).append(question)
    turns = sorted((turn, kind) for kind, questions in by_kind.items() for turn in range(len(questions)))
    chosen = [by_kind[kind][turn] for turn, kind in turns[:SHOWN_QUESTIONS]]
    return [
        {
            "id": question,
            "kind": known[question]["kind"],
            "asked": known[question].get("asked") or question,
            "gold": known[question].get("gold"),
            "systems": [
                (name, sorted((s for s in samples if s["question"] == question), key=lambda s: s["tag"]))
                for name, samples in first.items()
                if samples
            ],
        }
        for question in chosen
    ]


def seconds_table(seconds: dict) -> list[tuple[str, str]]:
    """Stages and their wall times, and the sum, as text."""
    known = {stage: value for stage, value in flat(seconds, join=" ", text=False) if value is not None}
    if not known:
        return []
    return [(stage, f"{value:,.1f} s") for stage, value in known.items()] + [("total", f"{sum(known.values()):,.1f} s")]


def flat(tree: dict, join: str = ".", text: bool = True, prefix: str = "") -> list[tuple]:
    """The leaves of nested dictionaries as (path, value); values as text unless told otherwise."""
    leaves = []
    for name, value in tree.items():
        if isinstance(value, dict):
            leaves += flat(value, join, text, f"{prefix}{name}{join}")
        else:
            shown = value if isinstance(value, str) or not text else json.dumps(value)
            leaves.append((f"{prefix}{name}", shown))
    return leaves


def _data_url(image: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(image).decode()


def _shown_width(image: bytes) -> int:
    """CSS pixels at which every plot's text has one size; a PNG states its width in bytes 16 to 19."""
    return int.from_bytes(image[16:20], "big") * 96 // plots.DPI
