"""What stands in the report, in which order, and the words around it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from nemo_forking.evaluation.report import maps, paper, plots, policies, provenance, tables
from nemo_forking.evaluation.report.names import benchmark_title
from nemo_forking.evaluation.report.results import Benchmark, Results, of_policies
from nemo_forking.evaluation.report.style import Look, looks, png, shown_width
from nemo_forking.evaluation.report.table import Table
from nemo_forking.evaluation.report.training import policy_curves
from nemo_forking.evaluation.report.training import training_curves as draw_training_curves


@dataclass(frozen=True)
class Plot:
    """A drawn plot: its file's name, a heading ("" for none), what it shows, how it is read, and the PNG."""

    name: str
    heading: str
    alt: str
    caption: str
    image: bytes

    @property
    def width(self) -> int:
        """CSS pixels."""
        return shown_width(self.image)


@dataclass(frozen=True)
class Section:
    """Tables, then plots, then texts folded away; all of it folded under `folded` where that is given."""

    name: str
    title: str
    lead: str = ""
    tables: Sequence[Table] = ()
    plots: Sequence[Plot] = ()
    texts: Sequence[tuple[str, str]] = ()
    folded: str = ""

    @property
    def empty(self) -> bool:
        """Whether there is nothing to show."""
        return not (self.tables or self.plots or self.texts)


def sections(results: Results, curves: dict[str, list[list[dict]]], home: Path) -> list[Section]:
    """Every section before the viewer, and the provenance after it; those without content are left out."""
    looks_of = looks(results.systems, results.variants)
    models = {name: looks_of[name] for benchmark in results.models for name in (s.name for s in benchmark.systems)}
    first = "" if results.seeds == 1 else " First seed."
    made = [
        _summary(results, looks_of, models),
        _policies(results, of_policies(curves), looks_of, first),
        _paper(results, looks_of),
        Section(
            "comparisons",
            "Systems compared",
            tables=_known(tables.comparisons(results, looks_of)),
        ),
        Section(
            "pass-at-k",
            "More samples",
            plots=_plots(
                "pass_at_k",
                plots.pass_at_k(results.models, models),
                "Pass@k over the number of samples k, a line for every system",
                "The unbiased chance that one of k samples is right, whatever their tags; the band is one standard "
                "error. Hollow: Pass@N of one sample per slot, which is one per tag where every tag is asked.",
            ),
        ),
        Section(
            "tags",
            "Accuracy and length by tag",
            tables=_known(tables.tag_choice(results, looks_of)),
            plots=_each(
                results,
                "tags",
                lambda benchmark: plots.tags(benchmark, looks_of),
                "Pass@1 and completion length of every tag, a column for every system",
                "Above: Pass@1 with standard error over questions. Below: completion length, boxes from the 25th to "
                "the 75th percentile, whiskers from the 5th to the 95th, dots at the mean. A model without tags has "
                f"slots: samples of one prompt, alike up to chance.{first}",
            ),
        ),
        Section(
            "routes",
            "What each tag came to do",
            plots=_each(
                results,
                "routes",
                maps.routes,
                "Map of tags against routes, one for every system",
                f"Share of a tag's completions (%) by the route a parser found in the text.{first}",
            ),
        ),
        Section(
            "kinds",
            "Where each tag is strong",
            plots=_each(
                results,
                "kinds",
                maps.kinds,
                "Map of tags against kinds of question, one for every system",
                f"A tag's Pass@1 (%) by kind of question; of many kinds, those with most questions.{first}",
            ),
        ),
        Section(
            "temperature",
            "Temperature",
            plots=_plots(
                "temperature",
                plots.temperatures(results.models, models),
                "Pass@N against Pass@1 at several temperatures, a line for every system",
                "Pass@N over Pass@1 in the order of sampling temperature; the lowest and the highest stand at a line's "
                f"ends.{first}",
            ),
        ),
        Section(
            "diversity",
            "Diversity",
            tables=_known(tables.diversity(results, looks_of)),
            plots=_plots(
                "diversity",
                plots.diversity(results.models, looks_of),
                "Text dissimilarity and answer entropy, a bar for every system",
                "Bars: text dissimilarity of the samples of one round; black lines: of samples under one tag. A bar "
                "that passes its line says that tags make texts differ more than sampling does.",
            ),
        ),
        Section(
            "training",
            "What training did",
            tables=_known(tables.convergence(results, looks_of)),
            plots=[
                *_plots(
                    "training",
                    draw_training_curves(of_policies(curves, False), looks_of),
                    "Training loss and convergence of the matching over training steps",
                    "Thin: every step. Thick: moving average. A line a seed. Entropy falls when every teacher settles "
                    "on tags of its own; below, the share of questions with one of the commonest assignments, and of "
                    "traces that a question's last visit gave to another tag.",
                ),
                *_plots(
                    "teachers",
                    maps.teachers(curves),
                    "Map of tags against teachers at the end of training, one for every system",
                    "Share of a tag's traces (%) by teacher at the end of training; counts decay, so that the latest "
                    "steps weigh most. First seed.",
                ),
            ],
        ),
        _provenance(results, home),
    ]
    return [section for section in made if not section.empty]


def _summary(results: Results, looks_of: dict[str, Look], models: dict[str, Look]) -> Section:
    return Section(
        "summary",
        "Summary",
        tables=[tables.summary(results, looks_of), tables.asked(results, looks_of)],
        plots=_plots(
            "accuracy",
            plots.bars(results.models, models),
            "Accuracy by metric, a bar for every system",
            "Pass@1 is the mean over all samples; best tag is the tag of the highest Pass@1 on these questions, so "
            "biased upwards; Cons@N votes over one sample per slot (unparsable answers cast no vote, ties go to the "
            "earliest slot); Pass@N asks whether any of them is right.",
        ),
    )


def _policies(results: Results, curves: dict[str, list[list[dict]]], looks_of: dict[str, Look], first: str) -> Section:
    return Section(
        "policies",
        policies.TITLE,
        lead=policies.LEAD if results.policies else "",
        tables=_known(policies.policies(results, looks_of)),
        plots=[
            *_plots(
                "chosen_tags",
                maps.chosen(results.policies),
                "Map of kinds of question against the tags drawn on them, before and after reinforcement learning",
                "Share of the samples (%) a model draws under each tag, by kind of question: a row is a kind, a column "
                f"a tag. Framed: the tag that was best on the kind before reinforcement learning.{first}",
            ),
            *_plots(
                "rewards",
                policy_curves(curves, looks_of),
                "Reward and tag entropy over the steps of reinforcement learning, a line for every policy",
                "Thin: every step. Thick: moving average. A line a seed. Left: mean reward of a step's rollouts on "
                "training questions, before its update; where every tag was tried, weighted as the policy would draw "
                "them. Right: 0 nats where every question has one tag that is certain.",
            ),
        ],
    )


def _paper(results: Results, looks_of: dict[str, Look]) -> Section:
    measured = paper.measured_benchmarks(results)
    lead = (
        "Published, and measured here ± standard error; the difference in points, and below it in standard errors of "
        "the measurement (bold beyond two). The published numbers have errors of their own, which are not known. "
        "Pass@1 of a model with tags is that of tag 1, as the authors released."
    )
    if measured and not results.published:
        lead += " No system is set against a row of the paper: evaluation.systems names it as `published`."
    return Section(
        "paper",
        "The paper's tables",
        lead=lead,
        tables=paper.paper_tables(results, looks_of),
        folded="" if measured else "None of the paper's benchmarks was run here; its numbers, for reference",
    )


def _provenance(results: Results, home: Path) -> Section:
    listed = [
        provenance.benchmarks(results),
        *provenance.measurements(results, home),
        provenance.versions(results),
        provenance.wall_time(results),
    ]
    return Section("provenance", "Provenance", tables=_known(*listed), texts=provenance.prompts(results, home))


def _known(*found: Table | None) -> list[Table]:
    return [table for table in found if table is not None]


def _plots(name: str, figure: Figure | None, alt: str, caption: str, heading: str = "") -> list[Plot]:
    return [] if figure is None else [Plot(name, heading, alt, caption, png(figure))]


def _each(
    results: Results, name: str, draw: Callable[[Benchmark], Figure | None], alt: str, caption: str
) -> list[Plot]:
    """A plot of every benchmark that has one; the caption stands under the last."""
    several = len(results.benchmarks) > 1
    drawn = [(benchmark, figure) for benchmark in results.by_tag if (figure := draw(benchmark)) is not None]
    made = []
    for benchmark, figure in drawn:
        title = benchmark_title(benchmark.name)
        words = caption if benchmark is drawn[-1][0] else ""
        file = f"{name}-{re.sub(r'[^A-Za-z0-9_.-]+', '-', benchmark.name)}" if several else name
        made += _plots(file, figure, f"{alt} ({title})", words, title if several else "")
    return made
