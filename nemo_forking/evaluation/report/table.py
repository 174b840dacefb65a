"""A table of the report before it is HTML, Markdown or text on a console, and how its cells are written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

NOTHING = "–"


@dataclass(frozen=True)
class Cell:
    """One cell's text; `mark` points to a footnote, `below` is a smaller second line, `colour` a system's in plots."""

    text: str
    mark: str = ""
    below: str = ""
    tone: str = ""  # a class of page.css: soft, far
    colour: str = ""


@dataclass(frozen=True)
class Table:
    """Rows under named bodies ("" for a table without parts); the first column heads its row.

    Attributes:
        name: its id in the page.
        caption: what it shows, in a sentence.
        columns: labels; where `groups` (label, how many columns) is given, they stand above all columns but the first.
        bodies: name and rows of every part.
        notes: mark ("" for a remark) and text of every footnote.
        words: indices of the columns that hold words, not numbers.
        wide: whether it may take more than the page's column.
        aside: labels of the columns that a console has no room for.
    """

    name: str
    caption: str
    columns: tuple[str, ...]
    bodies: tuple[tuple[str, tuple[tuple[Cell, ...], ...]], ...]
    groups: tuple[tuple[str, int], ...] = ()
    notes: tuple[tuple[str, str], ...] = ()
    words: frozenset[int] = frozenset()
    wide: bool = False
    aside: frozenset[str] = frozenset()

    @property
    def starts(self) -> set[int]:
        """Indices of the columns that begin a group, but for the first group."""
        ends = list(accumulate((span for _, span in self.groups), initial=1))
        return set(ends[1:-1])

    @property
    def flat_columns(self) -> list[str]:
        """Labels with their group's before them, for tables with one line of heads."""
        above = [" ".join(label.split()) for label, span in self.groups for _ in range(span)] or [""] * (
            len(self.columns) - 1
        )
        return [self.columns[0], *(f"{a} {b}".strip() for a, b in zip(above, self.columns[1:], strict=True))]


class Notes:
    """Collects footnotes; the same text twice has one mark."""

    def __init__(self) -> None:
        self._mark_of: dict[str, str] = {}

    def mark(self, text: str | None) -> str:
        """The mark of a note; "" for no note."""
        if not text:
            return ""
        return self._mark_of.setdefault(text, chr(ord("a") + len(self._mark_of)))

    def collected(self) -> tuple[tuple[str, str], ...]:
        """Marks and texts, in order."""
        return tuple((mark, text) for text, mark in self._mark_of.items())


def cells(texts: Sequence[str]) -> tuple[Cell, ...]:
    """Plain cells; those without a value are soft."""
    return tuple(Cell(text, tone="soft" if text == NOTHING else "") for text in texts)


def percent(value: float | None, error: float | None = None, digits: int = 1) -> str:
    """A fraction as percent without the sign, `mean ± standard error`."""
    return figure(None if value is None else 100 * value, None if error is None else 100 * error, digits)


def figure(value: float | None, error: float | None = None, digits: int = 2) -> str:
    """A number, with its error where it is known."""
    if value is None:
        return NOTHING
    return f"{value:,.{digits}f}" + ("" if error is None else f" ± {error:,.{digits}f}")


def signed(value: float | None, digits: int = 1) -> str:
    """A difference, with a real minus sign."""
    if value is None:
        return NOTHING
    text = f"{abs(value):.{digits}f}"
    return text if not float(text) else ("+" if value > 0 else "−") + text


def p_value(value: float | None) -> str:
    """Two digits, and a bound below a ten-thousandth."""
    if value is None:
        return NOTHING
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}" if value < 0.01 else f"{value:.2f}"
