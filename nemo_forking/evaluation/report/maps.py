"""Heat maps of tags: the routes they take, the kinds of question they solve, the teachers and questions they are given.

Shape letters: N tags, R routes, C kinds, M teachers.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from nemo_forking.evaluation.report.results import Benchmark, System, dig, number
from nemo_forking.evaluation.report.style import INK, STYLE, WIDEST, panels
from nemo_forking.evaluation.report.tables import has_routes

UNPARSED = "unparsed"
MOST_KINDS = 14
FRAME = "#c97b3a"
Map = tuple[str, np.ndarray, Sequence[str]]  # title, percentages [rows, columns], what the rows are
Framed = Sequence[tuple[int, int]]  # row and column of cells


def routes(benchmark: Benchmark) -> Figure | None:
    """The share of every tag's completions that take each route; None where no parser found any."""
    systems = [system for system in benchmark.systems if has_routes(system)]
    names = sorted({route for system in systems for tag in system.per_tag for route in tag.get("routes") or ()})
    names = [name for name in names if name != UNPARSED] + [name for name in names if name == UNPARSED]
    maps = []
    for system in systems:
        count_NR = np.array([[(tag.get("routes") or {}).get(name, 0) for name in names] for tag in system.per_tag])
        maps.append((system.name, _shares(count_NR), _counted(system.place, count_NR)))
    return _maps(maps, names) if maps else None


def kinds(benchmark: Benchmark) -> Figure | None:
    """Every tag's Pass@1 on every kind of question; None where there is one kind only."""
    names = common_kinds(benchmark)
    systems = [system for system in benchmark.systems if any(tag.get("by_kind") for tag in system.per_tag)]
    if len(names) < 2 or not systems:
        return None
    tables = [_by_kind(system, names) for system in systems]
    return _maps([(s.name, table, _counted(s.place, table)) for s, table in zip(systems, tables, strict=True)], names)


def common_kinds(benchmark: Benchmark) -> list[str]:
    """The kinds of question, by name; of many, those with most questions."""
    count: dict[str, float] = {}
    for system in benchmark.systems:
        for kind, row in (system.first.get("by_kind") or {}).items():
            count[kind] = number(row.get("questions")) or 0
    return sorted(sorted(count, key=lambda kind: -count[kind])[:MOST_KINDS])


def teachers(curves: dict[str, list[list[dict]]]) -> Figure | None:
    """The share of every tag's traces that came from each teacher at the end of training (counts that decay)."""
    maps = []
    for name, runs in curves.items():
        found = [line["tag_teacher"] for line in runs[0] if line.get("tag_teacher")]
        if found and np.sum(found[-1]) > 0:
            share_NM = _shares(np.array(found[-1], dtype=float).T)
            maps.append((name, share_NM, _counted("tag", share_NM)))
    if not maps:
        return None
    return _maps(maps, [f"teacher {place + 1}" for place in range(max(share_NM.shape[1] for _, share_NM, _ in maps))])


def chosen(policies: Sequence[System]) -> Figure | None:
    """The tags a model draws by kind of question: every start once, then the policies from it; None where not told.

    Framed is the tag that was best on the kind before reinforcement learning.
    """
    before: dict[str, tuple[str, dict, dict]] = {}  # by start and distribution: policies of one start share it
    after: dict[str, list[tuple[str, dict, dict]]] = {}
    for policy in policies:
        row = policy.first
        if row.get("tag_distribution_before") and row.get("tag_distribution_after"):
            start, best = row.get("start") or policy.name, row.get("by_kind") or {}
            key = json.dumps([start, row["tag_distribution_before"]])
            before.setdefault(key, (f"{start}, before", row["tag_distribution_before"], best))
            after.setdefault(key, []).append((f"{policy.name}, after", row["tag_distribution_after"], best))
    drawn = [one for key in before for one in (before[key], *after[key])]
    if not drawn:
        return None
    maps, framed = [], []
    for title, shares, best in drawn:
        names = sorted(sorted(shares, key=lambda kind: -(number(dig(best, kind, "questions")) or 0))[:MOST_KINDS])
        maps.append((title, 100 * np.array([shares[kind] for kind in names], dtype=float), names))
        tags = [dig(best, kind, "oracle_tag") for kind in names]
        framed.append([(row, tag) for row, tag in enumerate(tags) if isinstance(tag, int)])
    tags = max(table.shape[1] for _, table, _ in maps)
    return _maps(maps, [str(tag + 1) for tag in range(tags)], cell=0.33, framed=framed)


def _by_kind(system: System, names: Sequence[str]) -> np.ndarray:
    rows = [[number((tag.get("by_kind") or {}).get(kind)) for kind in names] for tag in system.per_tag]
    return 100 * np.array(rows, dtype=float)  # None becomes nan


def _shares(count_NR: np.ndarray) -> np.ndarray:
    """Counts as percent of their row."""
    return 100 * count_NR / np.maximum(count_NR.sum(axis=1, keepdims=True), 1e-9)


def _counted(what: str, table: np.ndarray) -> list[str]:
    return [f"{what} {row + 1}" for row in range(len(table))]


def _maps(
    maps: Sequence[Map], columns: Sequence[str], *, cell: float = 0.42, framed: Sequence[Framed] | None = None
) -> Figure:
    """Heat maps side by side with the numbers written in; `cell`: a column's width, inches."""
    with rc_context({**STYLE, "axes.grid": False}):
        width = max(1.9, cell * len(columns) + 0.5)
        across = max(1, min(len(maps), int((WIDEST - 0.5) / width)))
        height = 0.32 * max(len(table) for _, table, _ in maps) + 1.25
        figure = Figure(figsize=(width * across + 0.5, height * -(-len(maps) // across)))
        for place, (axes, (title, table, rows)) in enumerate(zip(panels(figure, len(maps), across), maps, strict=True)):
            axes.imshow(np.ma.masked_invalid(table), cmap="Blues", vmin=0, vmax=100, aspect="auto")
            for at in np.ndindex(*table.shape):
                value = table[at]
                if np.isfinite(value):
                    ink = "white" if value > 60 else INK if value >= 0.5 else "#b4b4b4"
                    axes.text(*reversed(at), f"{value:.0f}", ha="center", va="center", fontsize=7.5, color=ink)
            axes.set_title(title)
            slanted = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if max(map(len, columns)) > 2 else {}
            axes.set_xticks(range(len(columns)), columns, **slanted)
            named = place % across == 0 or rows != maps[place - 1][2]
            axes.set_yticks(range(len(table)), rows if named else [])
            for row, column in framed[place] if framed else ():
                frame = {"fill": False, "edgecolor": FRAME, "linewidth": 1.6, "clip_on": False}
                axes.add_patch(Rectangle((column - 0.47, row - 0.47), 0.94, 0.94, **frame))
            axes.spines[:].set_visible(False)
        figure.tight_layout()
        return figure
