"""How plots look: colours of systems, sizes, the PNG files. Figures are made without matplotlib's global state."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from matplotlib.figure import Figure

COLOURS = {
    "optimal": "#1f5a8a",
    "random": "#c97b3a",
    "fixed": "#6f9359",
    "mixed": "#86709c",
    "gfpo": "#b0506a",
    "grpo": "#3d8f8b",
    "base": "#8c8c8c",
}
OTHERS = ("#1f5a8a", "#c97b3a", "#6f9359", "#86709c", "#b0506a", "#3d8f8b", "#a88b2d", "#5b6f82", "#8c8c8c", "#7a4f3a")
MARKERS = "osD^vPX<>*"
DPI = 170  # of the PNG files: nearly twice a screen's, for sharp text
WIDEST = 10.6  # inches: the width of the page's column
INK, SOFT, FAINT = "#222222", "#6b6b70", "#e4e4e4"
STYLE = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": "#999999",
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "legend.frameon": False,
    "text.parse_math": False,  # names are shown as they are
}


@dataclass(frozen=True)
class Look:
    """A system's colour and marker, the same in every plot."""

    colour: str
    marker: str


def looks(names: Sequence[str], variants: Mapping[str, str] | None = None) -> dict[str, Look]:
    """Every system's look: those of a study have fixed colours, others take what is left, in order.

    A variant (system -> the same model asked otherwise) has its model's colour, paler.
    """
    variants = {name: model for name, model in (variants or {}).items() if model in names and model != name}
    known = _looks([name for name in names if name not in variants])
    pale = {name: replace(known[model], colour=_pale(known[model].colour)) for name, model in variants.items()}
    return {name: (known | pale)[name] for name in names}


def _looks(names: Sequence[str]) -> dict[str, Look]:
    free = [colour for colour in OTHERS if colour not in {COLOURS.get(name) for name in names}] or list(OTHERS)
    others = [name for name in names if name not in COLOURS]
    taken = {name: free[place % len(free)] for place, name in enumerate(others)}
    return {
        name: Look(COLOURS.get(name) or taken[name], MARKERS[place % len(MARKERS)]) for place, name in enumerate(names)
    }


def _pale(colour: str) -> str:
    """Half of the way to white."""
    return "#" + "".join(f"{(int(colour[place : place + 2], 16) + 255) // 2:02x}" for place in (1, 3, 5))


def panels(figure: Figure, count: int, across: int, **kwargs) -> list:
    """`count` axes in rows of `across`; the places left over in the last row stay empty."""
    rows = -(-count // across)
    grid = figure.subplots(rows, across, squeeze=False, **kwargs).ravel()
    for axes in grid[count:]:
        axes.remove()
    return list(grid[:count])


def png(figure: Figure) -> bytes:
    """The figure as a PNG file's bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, bbox_inches="tight", facecolor="white")
    return buffer.getvalue()


def shown_width(image: bytes) -> int:
    """CSS pixels at which every plot's text has one size; a PNG states its width in bytes 16 to 19."""
    return int.from_bytes(image[16:20], "big") * 96 // DPI
