"""Plots of accuracy, length, temperature and diversity. Everything is in percent, tokens or bits, as the axes say."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from nemo_forking.evaluation.report.names import benchmark_title, metric_title
from nemo_forking.evaluation.report.results import Benchmark, System, dig, metric, number, over_seeds, rate
from nemo_forking.evaluation.report.style import INK, SOFT, STYLE, WIDEST, Look, panels

LABELLED_BARS = 24  # more have no numbers on them
LEGEND = {"loc": "upper left", "bbox_to_anchor": (1.0, 0.98), "handlelength": 1, "handleheight": 1}


def bars(benchmarks: Sequence[Benchmark], looks: dict[str, Look]) -> Figure:
    """Every metric as a group of bars, one a system, with standard errors; a panel per benchmark."""
    with rc_context(STYLE):
        across = min(len(benchmarks), 2)
        rows = -(-len(benchmarks) // across)
        figure = Figure(figsize=(7.6 if across == 1 else 10, 2.9 * rows))
        for axes, benchmark in zip(panels(figure, len(benchmarks), across), benchmarks, strict=True):
            _bars(axes, benchmark, looks)
            if len(benchmarks) > 1:
                axes.set_title(benchmark_title(benchmark.name))
        figure.tight_layout(w_pad=2, h_pad=2)
        _legend(figure, looks)
        return figure


def pass_at_k(benchmarks: Sequence[Benchmark], looks: dict[str, Look]) -> Figure | None:
    """Pass@k over k, a line a system with a band of one standard error; None where no row has it."""
    found = [(b, curves) for b in benchmarks if (curves := {s.name: c for s in b.systems if (c := _pass_at_k(s))})]
    if not found:
        return None
    with rc_context(STYLE):
        across = min(len(found), 3)
        figure = Figure(figsize=(5.2 if across == 1 else 3.5 * across, 3.2 * -(-len(found) // across)))
        for axes, (benchmark, curves) in zip(panels(figure, len(found), across), found, strict=True):
            sizes = sorted({k for curve in curves.values() for k in curve})
            for system in benchmark.systems:
                if system.name in curves:
                    _pass_at_k_line(axes, system, curves[system.name], looks[system.name])
            powers = [k for k in sizes if k & (k - 1) == 0]
            axes.set_xscale("log", base=2)
            axes.set_xticks(powers, [str(k) for k in powers])
            axes.minorticks_off()
            axes.set_xlabel("samples k, whatever their tag (log scale)")
            axes.set_ylabel("Pass@k, % of questions")
            lowest = min(mean for curve in curves.values() for mean, _ in curve.values())
            axes.set_ylim(0 if lowest < 50 else 10 * (lowest // 10 - 1), 103)
            if len(found) > 1:
                axes.set_title(benchmark_title(benchmark.name))
        figure.tight_layout(w_pad=2)
        _legend(figure, looks, markers=True)
        return figure


def tags(benchmark: Benchmark, looks: dict[str, Look]) -> Figure | None:
    """Every tag's Pass@1 (with standard error) above its lengths, one column a system (its first seed)."""
    systems = [system for system in benchmark.systems if system.per_tag]
    if not systems:
        return None
    with rc_context(STYLE):
        across = min(len(systems), 4)
        blocks = -(-len(systems) // across)
        figure = Figure(figsize=(min(2.55 * max(across, 2), WIDEST), 4.0 * blocks))
        grid = figure.subplots(2 * blocks, across, squeeze=False)
        longest = max((_longest(tag) for system in systems for tag in system.per_tag), default=0) or 1
        for place in range(blocks * across):
            above, below = grid[2 * (place // across) : 2 * (place // across) + 2, place % across]
            if place >= len(systems):
                above.remove(), below.remove()
                continue
            system = systems[place]
            _tag_accuracy(above, system, looks[system.name])
            _tag_lengths(below, system, looks[system.name])
            below.set_ylim(0, 1.06 * longest)
            for axes in (above, below):
                axes.set_xticks(range(1, len(system.per_tag) + 1))
                axes.set_xlim(0.4, len(system.per_tag) + 0.6)
            below.set_xlabel(system.place)
            if place % across == 0:
                above.set_ylabel("Pass@1, %")
                below.set_ylabel("length, tokens")
            else:
                above.set_yticklabels([]), below.set_yticklabels([])
        figure.tight_layout()
        return figure


def temperatures(benchmarks: Sequence[Benchmark], looks: dict[str, Look]) -> Figure | None:
    """Pass@N against Pass@1, a line a system through its temperatures; None where there was one temperature only."""
    found = [(b, [s for s in b.systems if len(_temperatures(s)) > 1]) for b in benchmarks]
    found = [(benchmark, systems) for benchmark, systems in found if systems]
    if not found:
        return None
    with rc_context({**STYLE, "axes.grid.axis": "both"}):
        across = min(len(found), 3)
        figure = Figure(figsize=(5.2 if across == 1 else 3.5 * across, 3.4 * -(-len(found) // across)))
        for axes, (benchmark, systems) in zip(panels(figure, len(found), across), found, strict=True):
            for system in systems:
                points = _temperatures(system)
                x, y = [100 * a for _, a, _ in points], [100 * b for _, _, b in points]
                look = looks[system.name]
                axes.plot(x, y, color=look.colour, marker=look.marker, markersize=5, linewidth=1.3)
                for end in (0, -1):  # those between follow the line; their labels would lie on each other
                    axes.annotate(
                        f"{points[end][0]:g}",
                        (x[end], y[end]),
                        (4, 4),
                        textcoords="offset points",
                        fontsize=7.5,
                        color=SOFT,
                    )
            axes.margins(0.12)
            axes.set_xlabel("Pass@1, %")
            axes.set_ylabel(f"Pass@{systems[0].slots}, %")
            if len(found) > 1:
                axes.set_title(benchmark_title(benchmark.name))
        figure.tight_layout(w_pad=2)
        _legend(figure, looks, markers=True)
        return figure


def diversity(benchmarks: Sequence[Benchmark], looks: dict[str, Look]) -> Figure | None:
    """Text dissimilarity between and within tags, and answer entropy, a bar a system; None where no row tells."""
    several = len(benchmarks) > 1
    rows, y, bottom = [], [], 0.0
    for benchmark in benchmarks:
        for system in benchmark.systems:
            if _diversity(system, "dissimilarity") is not None:
                rows.append((f"{benchmark_title(benchmark.name)}, {system.name}" if several else system.name, system))
                y.append(bottom)
                bottom += 1
        bottom += 0.5
    if not rows:
        return None
    with rc_context({**STYLE, "axes.grid.axis": "x"}):
        figure = Figure(figsize=(9, 0.3 * bottom + 1.1))
        texts, answers = figure.subplots(1, 2, sharey=True)
        colours = [looks[system.name].colour for _, system in rows]
        texts.barh(y, [_diversity(system, "dissimilarity") for _, system in rows], 0.66, color=colours)
        within = [_diversity(system, "dissimilarity_within_tag") for _, system in rows]
        marked = [(value, place) for value, place in zip(within, y, strict=True) if value is not None]
        texts.plot(*zip(*marked, strict=True) if marked else ((), ()), "|", color=INK, markersize=13, markeredgewidth=2)
        texts.set_xlim(0, 1.02)
        texts.set_xlabel("text dissimilarity, 0 to 1")
        answers.barh(y, [_diversity(system, "answer_entropy_bits") or 0 for _, system in rows], 0.66, color=colours)
        answers.set_xlim(0, max(answers.get_xlim()[1], 0.1))
        answers.set_xlabel("answer entropy, bits")
        texts.set_yticks(y, [label for label, _ in rows])
        texts.invert_yaxis()
        figure.tight_layout(w_pad=2.5)
        return figure


# ---------------------------------------------------------------- parts


def _bars(axes, benchmark: Benchmark, looks: dict[str, Look]) -> None:
    systems, slots = benchmark.systems, benchmark.systems[0].slots
    keys = [
        key
        for key in dict.fromkeys(("pass@1", "best_tag_pass@1", f"cons@{slots}", "cons@32", f"pass@{slots}"))
        if any(rate(system, key)[0] is not None for system in systems)
    ]
    width = 0.8 / len(systems)
    for place, system in enumerate(systems):
        measured = [rate(system, key) for key in keys]
        x = np.arange(len(keys)) + (place - (len(systems) - 1) / 2) * width
        heights = [np.nan if mean is None else 100 * mean for mean, _ in measured]
        errors = [100 * (error or 0) for _, error in measured]
        axes.bar(x, heights, width * 0.9, color=looks[system.name].colour)
        axes.errorbar(x, heights, errors, fmt="none", ecolor=INK, elinewidth=0.8, capsize=2)
        if len(systems) * len(keys) <= LABELLED_BARS:
            for at, height, error in zip(x, heights, errors, strict=True):
                if np.isnan(height):
                    continue
                axes.text(at, height + error + 1.5, f"{height:.0f}", ha="center", fontsize=7.5, color=SOFT)
    labels = {"best_tag_pass@1": "Best tag"}
    axes.set_xticks(range(len(keys)), [labels.get(key, metric_title(key)) for key in keys])
    axes.set_ylim(0, 112)
    axes.set_yticks(range(0, 101, 20))
    axes.set_ylabel("% of questions")


def _pass_at_k(system: System) -> dict[int, tuple[float, float | None]]:
    """Pass@k and its standard error in percent, by k."""
    sizes = [int(k) for k in system.first.get("pass@k") or {} if str(k).isdigit()]
    curve = {}
    for k in sorted(sizes):
        mean, error = over_seeds(
            system,
            lambda run, k=k: (
                number(dig(run, "pass@k", str(k))),
                number(dig(run, "pass@k_standard_error", str(k))),
            ),
        )
        if mean is not None:
            curve[k] = 100 * mean, None if error is None else 100 * error
    return curve


def _pass_at_k_line(axes, system: System, curve: dict, look: Look) -> None:
    k, value = list(curve), np.array([mean for mean, _ in curve.values()])
    axes.plot(k, value, color=look.colour, marker=look.marker, markersize=4, linewidth=1.4, clip_on=False)
    if all(error is not None for _, error in curve.values()):
        error = np.array([error for _, error in curve.values()])
        low, high = np.clip(value - error, 0, 100), np.clip(value + error, 0, 100)
        axes.fill_between(k, low, high, color=look.colour, alpha=0.15, linewidth=0)
    native, _ = over_seeds(system, metric(f"pass@{system.slots}"))
    if native is not None:
        axes.plot(
            [system.slots],
            [100 * native],
            marker=look.marker,
            markersize=8,
            mfc="white",
            mec=look.colour,
            zorder=3,
            clip_on=False,
        )


def _tag_accuracy(axes, system: System, look: Look) -> None:
    x = np.arange(1, len(system.per_tag) + 1)
    value = [np.nan if (rate := number(tag.get("pass@1"))) is None else 100 * rate for tag in system.per_tag]
    errors = [100 * (number(tag.get("standard_error")) or 0) for tag in system.per_tag]
    axes.bar(x, value, 0.7, color=look.colour)
    axes.errorbar(x, value, errors, fmt="none", ecolor=INK, elinewidth=0.8, capsize=2)
    axes.set_title(system.name)
    axes.set_ylim(0, 105)
    axes.set_yticks(range(0, 101, 25))


def _tag_lengths(axes, system: System, look: Look) -> None:
    """Boxes from the 25th to the 75th percentile, whiskers from the 5th to the 95th, a dot at the mean."""
    boxes, places = [], []
    for place, tag in enumerate(system.per_tag, 1):
        ends = [number(dig(tag, "token_quantiles", q)) for q in ("5", "25", "50", "75", "95")]
        if None not in ends:
            boxes.append(dict(zip(("whislo", "q1", "med", "q3", "whishi"), ends, strict=True)))
            places.append(place)
    if boxes:
        line = {"color": look.colour, "linewidth": 1.1}
        axes.bxp(
            boxes,
            positions=places,
            manage_ticks=False,
            widths=0.6,
            showfliers=False,
            patch_artist=True,
            boxprops={"facecolor": look.colour, "edgecolor": look.colour, "alpha": 0.35},
            medianprops={"color": INK, "linewidth": 1.4},
            whiskerprops=line,
            capprops=line,
        )
    means = [(p, m) for p, tag in enumerate(system.per_tag, 1) if (m := number(tag.get("mean_tokens"))) is not None]
    axes.plot(*zip(*means, strict=True) if means else ((), ()), "o", color=INK, markersize=3, zorder=3)


def _longest(tag: dict) -> float:
    ends = (number(dig(tag, "token_quantiles", "95")), number(tag.get("mean_tokens")))
    return max((end for end in ends if end is not None), default=0)


def _temperatures(system: System) -> list[tuple[float, float, float]]:
    """Temperature, Pass@1 and Pass@N of the first seed, by temperature."""
    points = []
    for name, row in (system.first.get("temperatures") or {}).items():
        values = number(dig(row, "pass@1")), number(dig(row, f"pass@{system.slots}"))
        if None not in values:
            points.append((float(name), *values))
    return sorted(points)


def _diversity(system: System, key: str) -> float | None:
    return over_seeds(system, lambda run: (number(dig(run, "diversity", key)), None))[0]


def _legend(figure: Figure, looks: dict[str, Look], markers: bool = False) -> None:
    """The systems' colours, to the right of all panels; none for a single system."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    if len(looks) < 2:
        return
    handles = [
        Line2D([], [], color=look.colour, marker=look.marker, markersize=5, label=name)
        if markers
        else Patch(color=look.colour, label=name)
        for name, look in looks.items()
    ]
    figure.legend(handles=handles, **LEGEND | ({"handlelength": 1.8} if markers else {}))
