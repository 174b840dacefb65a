"""A benchmark's command in a forked rank of its own."""

import contextlib
import io
import json
from collections.abc import Callable, Sequence
from typing import Any

from tests.distributed.ranks import run


def record_of(main: Callable[[Sequence[str]], int], words: Sequence[str]) -> dict[str, Any]:
    """The record that `main(words)`, which is to end well, prints in its last line."""
    status, printed = run(_printing, 1, main, words)[0]
    assert status == 0, printed
    return json.loads(printed.splitlines()[-1])


def _printing(rank: int, main: Callable[[Sequence[str]], int], words: Sequence[str]) -> tuple[int, str]:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        status = main(words)
    return status, printed.getvalue()
