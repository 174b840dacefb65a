"""Plots of training: the loss and how the matching settled; reward and tag entropy of reinforcement learning."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from nemo_forking.evaluation.report.results import number
from nemo_forking.evaluation.report.style import SOFT, STYLE, Look

CURVES = (
    ("loss", "Training loss", "nats per token", 1),
    ("assignment_entropy_bits", "Assignment entropy H(tag | teacher)", "bits", 1),
    ("configuration_top_mass", "Commonest assignments", "% of questions", 100),
    ("change_rate", "Traces given to another tag", "% of traces", 100),
)
MATCHING, REWARDS = 30, 8  # a moving average's window is one of so many parts of the run
ABOVE = {"ha": "right", "va": "bottom", "fontsize": 7.5, "color": SOFT}


def training_curves(curves: dict[str, list[list[dict]]], looks: dict[str, Look]) -> Figure | None:
    """Loss and convergence of the matching over training, a line a seed; None where no metrics were kept."""
    if not curves:
        return None
    with rc_context(STYLE):
        figure = Figure(figsize=(9.6, 5.2))
        for axes, (key, title, unit, scale) in zip(figure.subplots(2, 2).ravel(), CURVES, strict=True):
            _lines(axes, curves, key, looks, scale)
            axes.set_title(title)
            axes.set_xlabel("training step")
            axes.set_ylabel(unit)
            axes.set_ylim(bottom=0)
            axes.margins(x=0.01)
            _legend(axes)
        figure.tight_layout(w_pad=2.5, h_pad=2)
        return figure


def policy_curves(curves: dict[str, list[list[dict]]], looks: dict[str, Look]) -> Figure | None:
    """Reward and tag entropy of reinforced models over their steps, a line a seed; None without any."""
    if not curves:
        return None
    with rc_context(STYLE):
        figure = Figure(figsize=(9.6, 2.9))
        rewards, entropies = figure.subplots(1, 2)
        _lines(rewards, curves, "reward", looks, 100, smoothed=REWARDS)
        rewards.set_title("Reward")
        rewards.set_ylabel("mean of a step's rollouts, %")
        rewards.set_ylim(0, 103)
        _lines(entropies, curves, "tag_entropy", looks, 1, smoothed=REWARDS)
        entropies.set_title("Entropy of the tags at the fork")
        entropies.set_ylabel("nats, mean over questions")
        tags = [
            len(line["tag_probability"]) for runs in curves.values() for line in runs[0] if line.get("tag_probability")
        ]
        if tags:
            even = np.log(max(tags))
            entropies.axhline(even, color="#999999", linewidth=0.9, linestyle=(0, (2, 2)))
            entropies.text(1, even, f"{max(tags)} tags, evenly", transform=entropies.get_yaxis_transform(), **ABOVE)
        entropies.set_ylim(0, 1.12 * max(entropies.get_ylim()[1] / 1.05, np.log(max(tags, default=2))))
        for axes in (rewards, entropies):
            axes.set_xlabel("optimizer step")
            axes.margins(x=0.01)
            _legend(axes)
        figure.tight_layout(w_pad=2.5)
        return figure


def _lines(
    axes, curves: dict[str, list[list[dict]]], key: str, looks: dict[str, Look], scale: float, smoothed: int = MATCHING
) -> None:
    """Thin: every step; thick: a moving average. A line a seed, named once."""
    for name, runs in curves.items():
        for place, lines in enumerate(runs):
            steps, values = _curve(lines, key)
            if len(values):
                label = name if place == 0 else None
                axes.plot(steps, scale * values, color=looks[name].colour, alpha=0.18, linewidth=0.8)
                smooth = scale * _smooth(values, smoothed)
                axes.plot(steps, smooth, color=looks[name].colour, linewidth=1.5, label=label)


def _legend(axes) -> None:
    if axes.has_data():
        axes.legend(handlelength=1.2)
    else:
        axes.text(0.5, 0.5, "not recorded", transform=axes.transAxes, ha="center", color="#888888")


def _curve(lines: Sequence[dict], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of one metric, leaving out the steps that have none."""
    found = [(number(line.get("step")), number(line.get(key))) for line in lines]
    points = [point for point in found if None not in point]
    steps, values = zip(*points, strict=True) if points else ((), ())
    return np.array(steps), np.array(values, dtype=float)


def _smooth(values: np.ndarray, parts: int = MATCHING) -> np.ndarray:
    """A centred moving average over about one of `parts` parts of the run, narrower towards the ends."""
    half = len(values) // (2 * parts)
    total = np.concatenate([[0.0], np.cumsum(values)])
    low = np.maximum(np.arange(len(values)) - half, 0)
    high = np.minimum(np.arange(len(values)) + half + 1, len(values))
    return (total[high] - total[low]) / (high - low)
