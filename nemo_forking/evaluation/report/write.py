"""Writes the report of a run folder: one self-contained HTML page, the same in Markdown, and its plots as files."""

from __future__ import annotations

import base64
import html
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from nemo_forking.evaluation.report.results import Results, load, training_curves
from nemo_forking.evaluation.report.sections import Plot, sections
from nemo_forking.evaluation.report.viewer import embedded, plain, viewer_data
from nemo_forking.files import write_aside

TEMPLATES = Path(__file__).parent
IN_MARKDOWN = 1500  # characters of a trace in report.md


def write_report(folder: Path) -> tuple[Path, Path]:
    """Writes report.html, report.md and plots/*.png in a run folder, each aside and renamed; returns the first two.

    Raises:
        UserError: results.json or a samples file is missing or damaged; nothing is written then.
    """
    folder = Path(folder)
    results = load(folder)
    made = sections(results, training_curves(results, folder), folder)
    content = {
        "title": results.title,
        "introduction": introduction(results),
        "sections": [section for section in made if section.name != "provenance"],
        "provenance": next((section for section in made if section.name == "provenance"), None),
        "viewer": viewer_data(results, folder),
    }
    page, text = html_page(content), markdown_page(content)
    for plot in (plot for section in made for plot in section.plots):
        write_aside(folder / _file(plot), plot.image)
    write_aside(folder / "report.md", text.encode("utf-8", "replace"))
    write_aside(folder / "report.html", page.encode("utf-8", "replace"))
    return folder / "report.html", folder / "report.md"


def introduction(results: Results) -> str:
    """What was done, in a sentence or two."""
    systems, slots = results.systems, results.benchmarks[0].systems[0].slots
    if results.study:
        return (
            f"One model, {slots} tags. Every held-out question is answered once under every tag and round; a rule is "
            "how training chose which tag learns which teacher's trace. For a model without tags, and for the rule "
            f"mixed, the slots are {slots} independent samples of one prompt."
            + (" A policy was reinforced from a rule's model and draws its own tags." if results.policies else "")
        )
    counted = [_counted(len(systems), "system"), _counted(len(results.benchmarks), "benchmark")]
    return f"{counted[0]} on {counted[1]}, {_counted(slots, 'sample')} of every question in a round."


def html_page(content: dict) -> str:
    """The page. Everything a model wrote is text: escaped by the template, or put in by the script as text."""
    environment = _environment(autoescape=True)
    environment.filters["data_url"] = lambda image: "data:image/png;base64," + base64.b64encode(image).decode()
    inserted = {name: Markup((TEMPLATES / file).read_text(encoding="utf-8")) for name, file in _PARTS.items()}
    data = Markup(embedded(content["viewer"]))
    return environment.get_template("page.html").render(content, **inserted, data=data)


def markdown_page(content: dict) -> str:
    """The same in Markdown, with the traces of one question only."""
    environment = _environment(autoescape=False, keep_trailing_newline=True)
    environment.filters.update(cell=_cell, indented=_indented, shortened=_shortened, file=_file)
    return environment.get_template("page.md").render(content)


def _environment(**settings: bool) -> Environment:
    loader = FileSystemLoader(TEMPLATES)
    return Environment(loader=loader, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, **settings)


_PARTS = {"style": "page.css", "script": "viewer.js"}


def _file(plot: Plot) -> str:
    return f"plots/{plot.name}.png"


def _cell(text: str) -> str:
    """Text for a Markdown table: one line, no bars, no HTML."""
    return html.escape(" ".join(plain(text).split()), quote=False).replace("|", "\\|")


def _indented(text: str) -> str:
    """A block in which nothing is Markdown."""
    return "\n".join("    " + line for line in text.splitlines())


def _shortened(parts: list) -> str:
    """A card's text, its middle left out where it is long."""
    head, tail = parts[0], parts[-1] if len(parts) > 1 else ""
    if len(head) + len(tail) <= IN_MARKDOWN and len(parts) == 1:
        return head
    left_out = len(head) + len(tail) + (parts[1] if len(parts) > 1 else 0) - IN_MARKDOWN
    half = IN_MARKDOWN // 2
    return f"{head[:half]}\n[... {left_out:,} characters left out ...]\n{(head + tail)[-half:]}"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
