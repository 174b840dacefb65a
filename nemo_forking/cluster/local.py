"""The stages of a study here, one after the other, in this process; training forks its ranks (training/launch.py)."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from nemo_forking.cluster import record
from nemo_forking.cluster.complete import lacking
from nemo_forking.cluster.questions import make_questions
from nemo_forking.cluster.stages import Stage
from nemo_forking.cluster.table import make_table
from nemo_forking.config import Config
from nemo_forking.data.prepare import prepare
from nemo_forking.errors import Stopped
from nemo_forking.files import alone
from nemo_forking.rl.prompts import prepare_prompts

LOCK = ".reproduce.lock"  # held while a study is at work here, or is being submitted

console = Console(stderr=True)


def run_here(stages: Sequence[Stage], folder: Path) -> None:
    """Run what is not complete, in order.

    Raises:
        UserError: another process is at it, or a stage's settings, files or folder are not as they should be.
    """
    with alone(folder / LOCK, f"is at work on {folder}"):
        done: set[str] = set()
        for stage in stages:
            if set(stage.needs) <= done and lacking(stage) is None:
                console.print(f"{stage.name}: complete", style="dim", highlight=False)
            else:
                _run(stage, folder)
            done.add(stage.name)


def _run(stage: Stage, folder: Path) -> None:
    console.rule(f"[bold]{stage.name}", align="left")
    began = {"host": socket.gethostname(), "process": os.getpid(), "at": time.time()}
    record.note(folder, stage.name, began)
    try:
        with record.timed(folder, stage.name):
            RUN[stage.recipe](stage.config)
    except Stopped:
        raise
    except BaseException as error:
        first = next(iter(str(error).strip().splitlines()), "")
        record.note(folder, stage.name, began | {"error": first or type(error).__name__})
        raise


# ---------------------------------------------------------------- what a recipe does, without its start


def _train(config: Config) -> None:
    from nemo_forking.training.launch import start_training

    start_training(config)


def _reinforce(config: Config) -> None:
    from nemo_forking.training.launch_policy import start_policy

    start_policy(config)


def _convert(config: Config) -> None:
    from nemo_forking.convert.convert import convert

    convert(config, tell=console.print)


def _evaluate(config: Config) -> None:
    """As recipes/evaluate.py, without a report of its own: the table has one of all."""
    from nemo_forking.evaluation.run import evaluate

    for _ in evaluate(config):
        pass


RUN: dict[str, Callable[[Config], object]] = {
    "make_questions": make_questions,
    "prepare_data": lambda config: prepare(config.data),
    "prepare_prompts": prepare_prompts,
    "convert": _convert,
    "ssft": _train,
    "gfpo": _reinforce,
    "evaluate": _evaluate,
    "table": make_table,
}
