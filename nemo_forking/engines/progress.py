"""A progress bar with the time left around anything that yields finished pieces."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

from nemo_forking import pulse

Piece = TypeVar("Piece")


def track(pieces: Iterable[Piece], total: int | None, label: str | None) -> Iterator[Piece]:
    """Passes the pieces on; shows a bar under `label` meanwhile, or nothing when it is None; a total may be unknown.

    Each piece is a sign of progress (nemo_forking.pulse).
    """
    pieces = pulse.each(pieces)
    if label is None:
        yield from pieces
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns) as bar:
        yield from bar.track(pieces, total=total, description=label)
