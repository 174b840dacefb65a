"""The table of reinforced models: what their own tags are worth, and whether anything else changed."""

from __future__ import annotations

from collections.abc import Callable

from nemo_forking.evaluation.report.results import Results, System, dig, metric, number, over_seeds
from nemo_forking.evaluation.report.style import Look
from nemo_forking.evaluation.report.table import NOTHING, Cell, Table, cells, figure, p_value, percent, signed

TITLE = "Learning to choose the tag"
LEAD = (
    "Reinforcement learning starts from a model of SSFT, which draws its own tag from then on. Best tag and oracle are "
    "what the model at the start could do if it knew one tag for all questions, or one for every kind of question."
)
NOTES = (
    ("*", "Chosen on these very questions, so biased upwards: the lead is understated, the distance overstated."),
    (
        "†",
        "The tag whose Pass@1 under that tag changed most clearly: points, and standard errors of the difference "
        "paired over questions. p is the chance of a tag changing as clearly were nothing changed; of several tags, "
        "one often passes two standard errors.",
    ),
)
GROUPS = (("Pass@1", 4), ("Own tag, after minus", 2), ("Tag tells of the kind", 2), ("Single tags", 1), ("Cost", 1))


def policies(results: Results, looks: dict[str, Look]) -> Table | None:
    """A row per policy, mean over seeds; None where there are none."""
    if not results.policies:
        return None
    rows = tuple(
        (_name(system, looks), *cells(_row(system)), _change(system), _rollouts(system)) for system in results.policies
    )
    columns = (
        "policy",
        "own tag, before",
        "own tag, after",
        "best tag*",
        "oracle by kind*",
        "best tag",
        "oracle",
        "before, bits",
        "after, bits",
        "largest change†",
        "rollouts drawn",
    )
    over = "questions (of differences, paired)" if results.seeds == 1 else f"{results.seeds} seeds"
    caption = (
        "Pass@1 on held-out questions in percent, differences in points; bits: mutual information of drawn tag and "
        f"kind of question. ± is the standard error over {over}."
    )
    aside = frozenset(columns[5:9]) | {"largest change†"}
    return Table("policies", caption, columns, (("", rows),), GROUPS, NOTES, wide=True, aside=aside)


def _name(system: System, looks: dict[str, Look]) -> Cell:
    start = system.first.get("start")
    return Cell(system.name, below=f"from {start}" if start else "", colour=looks[system.name].colour)


def _row(system: System) -> list[str]:
    rates = ("start_pass@1", "pass@1", "ssft_best_tag_pass@1", "oracle_tag_pass@1")
    return [
        *(percent(*over_seeds(system, metric(key))) for key in rates),
        *(_difference(system, key) for key in rates[2:]),
        *(_bits(system, f"tag_information_bits_{when}") for when in ("before", "after")),
    ]


def _difference(system: System, key: str) -> str:
    def read(run: dict) -> tuple[float | None, float | None]:
        return tuple(number(dig(run, "difference", key, part)) for part in ("value", "standard_error"))

    mean, error = over_seeds(system, read)
    if mean is None:
        return NOTHING
    return signed(100 * mean) + ("" if error is None else f" ± {100 * error:.1f}")


def _bits(system: System, key: str) -> str:
    mean, error = over_seeds(system, lambda run: (number(run.get(key)), None))
    return figure(mean, error)


def _change(system: System) -> Cell:
    """Points of every seed's largest change, and below them standard errors and p."""
    changes = [run["per_tag_change"] for run in system.runs if isinstance(run.get("per_tag_change"), dict)]
    if not changes:
        return Cell(NOTHING, tone="soft")

    def each(text: Callable[[dict], str]) -> str:
        return "; ".join(map(text, changes))

    def points(change: dict) -> str:
        tag, difference = change.get("tag"), change.get("difference") or []
        known = isinstance(tag, int) and tag < len(difference)
        return signed(100 * difference[tag]) if known else NOTHING

    errors = each(lambda change: NOTHING if change.get("largest_z") is None else f"{change['largest_z']:.1f}")
    p_values = each(lambda change: p_value(number(change.get("p_value"))))
    return Cell(each(points), below=f"{errors} s.e., p {p_values}")


def _rollouts(system: System) -> Cell:
    drawn, reused = (
        over_seeds(system, lambda run, key=key: (number(dig(run, "rollouts", key)), None))[0]
        for key in ("drawn", "reused")
    )
    below = f"{reused:,.0f} used again" if reused else ""
    return Cell(figure(drawn, digits=0), below=below, tone="soft" if drawn is None else "")
