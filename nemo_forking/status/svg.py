"""Small plots as SVG, drawn without a plotting library so that a page is there at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from nemo_forking.status.words import number, parts

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 400, 190, 58, 8, 12, 26
FONT = 13
MOST = 230  # points of a line: two pixels each
BLUE = "#1f5a8a"
COLOURS = ("#1f5a8a", "#c97b3a", "#6f9359", "#86709c", "#b0506a")


def line(steps: Sequence[float], values: Sequence[float]) -> str:
    """A curve: means of equal parts of the run, over a band from the least to the greatest value."""
    cuts = parts(len(values), MOST)
    x = [sum(steps[a:b]) / (b - a) for a, b in cuts]
    means = [sum(values[a:b]) / (b - a) for a, b in cuts]
    lows, highs = [min(values[a:b]) for a, b in cuts], [max(values[a:b]) for a, b in cuts]
    frame = _Frame((min(x), max(x)), _range(lows, highs))
    band = [frame.at(a, v) for a, v in zip(x, highs, strict=True)]
    band += [frame.at(a, v) for a, v in zip(reversed(x), reversed(lows), strict=True)]
    curve = [frame.at(a, v) for a, v in zip(x, means, strict=True)]
    drawn = f'<polygon points="{" ".join(band)}" fill="{BLUE}" opacity=".18"/>'
    drawn += f'<polyline points="{" ".join(curve)}" fill="none" stroke="{BLUE}" stroke-width="1.6"/>'
    if len(curve) == 1:
        drawn += f'<circle cx="{curve[0].split(",")[0]}" cy="{curve[0].split(",")[1]}" r="3" fill="{BLUE}"/>'
    return frame.around(drawn)


def stack(steps: Sequence[float], layers: dict[str, Sequence[float]]) -> str:
    """Layers on top of one another, each the mean of equal parts of the run; their names are written above."""
    cuts = parts(len(steps), MOST)
    x = [sum(steps[a:b]) / (b - a) for a, b in cuts]
    means = {name: [sum(values[a:b]) / (b - a) for a, b in cuts] for name, values in layers.items()}
    tops, total = [], [0.0] * len(x)
    for values in means.values():
        total = [below + value for below, value in zip(total, values, strict=True)]
        tops.append(total)
    frame = _Frame((min(x), max(x)), (0.0, 1.05 * max(total) or 1.0))
    drawn, below, at = [], [0.0] * len(x), LEFT
    for place, (name, top) in enumerate(zip(means, tops, strict=True)):
        colour = COLOURS[place % len(COLOURS)]
        edge = [frame.at(a, v) for a, v in zip(x, top, strict=True)]
        edge += [frame.at(a, v) for a, v in zip(reversed(x), reversed(below), strict=True)]
        drawn.append(f'<polygon points="{" ".join(edge)}" fill="{colour}" opacity=".8"/>')
        drawn.append(f'<text x="{at}" y="{TOP - 1}" fill="{colour}" font-weight="600">{escape(name)}</text>')
        below, at = top, at + 8 * len(name) + 14
    return frame.around("".join(drawn))


def ticks(low: float, high: float) -> list[float]:
    """Three to six round figures between two values."""
    rough = (high - low) / 5
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    return [place * step for place in range(math.ceil(low / step), math.floor(high / step) + 1)]


class _Frame:
    """Axes: from values to places, with grid lines and their figures."""

    def __init__(self, x: tuple[float, float], y: tuple[float, float]):
        self.x, self.y = (x if x[1] > x[0] else (x[0] - 1, x[0] + 1)), y

    def at(self, x: float, y: float) -> str:
        return f"{self._left(x):.1f},{self._top(y):.1f}"

    def _left(self, x: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (x - self.x[0]) / (self.x[1] - self.x[0])

    def _top(self, y: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM - 8) * (y - self.y[0]) / (self.y[1] - self.y[0])

    def around(self, drawn: str) -> str:
        marks = []
        for value in ticks(*self.y):
            top = self._top(value)
            marks.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{top:.1f}" y2="{top:.1f}" stroke="#e4e4e4"/>')
            marks.append(f'<text x="{LEFT - 6}" y="{top + 4:.1f}" text-anchor="end">{number(value)}</text>')
        for value, anchor in ((self.x[0], "start"), (self.x[1], "end")):
            left = self._left(value)
            marks.append(f'<text x="{left:.1f}" y="{HEIGHT - 8}" text-anchor="{anchor}">step {value:,.0f}</text>')
        inside = "".join(marks) + drawn
        return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" font-size="{FONT}" fill="#65656b">{inside}</svg>'


def _range(lows: Sequence[float], highs: Sequence[float]) -> tuple[float, float]:
    """Where all lies; from zero where that is near."""
    low, high = min(lows), max(highs)
    if 0 <= low < 0.6 * high:
        low = 0.0
    margin = 0.05 * (high - low) or abs(high) or 1.0
    return (low if low == 0 else low - margin), high + margin
