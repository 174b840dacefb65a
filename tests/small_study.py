"""The laptop study on a few steps, as its command line is given."""

import sys
from pathlib import Path

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


def command(folder: Path, *more: str) -> list[str]:
    """The study in a folder, for tests.command_lines."""
    return [sys.executable, "recipes/reproduce.py", "experiment=tiny", f"run.folder={folder}", *SETTINGS, *more]
