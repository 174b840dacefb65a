"""A benchmark's command in a forked rank of its own."""

import contextlib
import io
from collections.abc import Callable, Sequence

from tests.distributed.ranks import run


def run_command(main: Callable[[Sequence[str]], int], words: Sequence[str]) -> tuple[int, str]:
    """Exit status of `main(words)`, and what it printed."""
    return run(_printing, 1, main, words)[0]


def _printing(rank: int, main: Callable[[Sequence[str]], int], words: Sequence[str]) -> tuple[int, str]:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        status = main(words)
    return status, printed.getvalue()
