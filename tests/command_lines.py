"""Recipes by their command lines: as a process of their own, as users start them, or here, where torch is imported."""

import runpy
import subprocess
from typing import Any

from tests.conftest import CHECKOUT

PATIENCE = 1500  # seconds for what takes a minute or two on a machine without other work


def finish(line: list[str]) -> str:
    """Run a command line in the checkout to its end; what it said."""
    done = subprocess.run(line, cwd=CHECKOUT, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def run_here(line: list[str]) -> Any:
    """The exit status of `python recipe.py ...`, run in this process."""
    _, path, *words = line
    return runpy.run_path(str(CHECKOUT / path))["run"](words)


def refused(line: list[str], capsys) -> str:
    """What a command line that cannot be followed is answered with."""
    assert run_here(line) == 2
    return " ".join(capsys.readouterr().err.split())
