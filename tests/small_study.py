"""The laptop study on a few steps, as its command line is given."""

import subprocess
import sys
from pathlib import Path

from tests.conftest import CHECKOUT

SETTINGS = [
    "study.base.max_steps=12",
    "study.base.questions=4",
    "study.questions.base=40",
    "study.questions.train=10",
    "study.questions.heldout=5",
    "benchmarks.many_ways.rounds=2",
    "evaluation.max_tokens=12",
    "trainer.checkpoint_every=2",
    "batch.questions=3",
    "study.questions.rl=8",
    "study.policy.max_steps=2",
    "study.policy.questions=4",
    "rollout.max_tokens=12",
]
PATIENCE = 1500  # seconds for what takes one minute on a machine without other work


def command(folder: Path, *more: str) -> list[str]:
    """The study in a folder, to be started in the checkout."""
    return [sys.executable, "recipes/reproduce.py", "experiment=tiny", f"run.folder={folder}", *SETTINGS, *more]


def finish(folder: Path, *more: str) -> str:
    """Run it, or a switch of it, to its end; what it said."""
    done = subprocess.run(command(folder, *more), cwd=CHECKOUT, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr
