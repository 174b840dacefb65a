"""One stage of an experiment: a recipe, the command line it is started with, and the stages whose files it reads."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from nemo_forking.config import Config, load
from nemo_forking.config.written import key_of, written

SCRIPTS = {  # recipe -> script of slurm/, and the word that tells it the recipe where it runs several
    "ssft": ("ssft",),
    "gfpo": ("gfpo",),
    "evaluate": ("evaluate",),
    "convert": ("convert",),
    "prepare_data": ("prepare",),
    "prepare_prompts": ("prepare", "prompts"),
    "make_questions": ("prepare", "questions"),
    "table": ("prepare", "table"),
}


@dataclass(frozen=True)
class Stage:
    """One step of an experiment.

    Attributes:
        name: in the plan, the status and the list of jobs.
        recipe: file of recipes/ without its ending.
        overrides: its command line.
        needs: names of the stages that must be complete before.
    """

    name: str
    recipe: str
    overrides: tuple[str, ...]
    needs: tuple[str, ...] = ()

    @cached_property
    def config(self) -> Config:
        """What the command line means."""
        return load(self.overrides)

    @property
    def command(self) -> str:
        """The stage by hand: torchrun where GPUs take several processes, which a CPU layout starts by itself."""
        start = ["python"]
        if self.recipe in ("ssft", "gfpo") and self.config.layout.accelerator == "gpu":
            nodes = ["--nnodes", str(self.config.layout.nodes)] if self.config.layout.nodes > 1 else []
            start = ["torchrun", *nodes, "--nproc-per-node", str(self.config.layout.devices)]
        return shlex.join([*start, f"recipes/{self.recipe}.py", *self.overrides])


def make_stage(
    name: str, recipe: str, given: Iterable[str], changes: Mapping[str, Any], needs: Iterable[str] = ()
) -> Stage:
    """A stage whose command line is the user's with some keys or groups set anew.

    Args:
        name: of the stage.
        recipe: file of recipes/ without its ending.
        given: the user's overrides.
        changes: key -> plain value, or group -> file; what the user said of these is left out.
        needs: stages before it.
    """
    kept = [text for text in given if not _says_again(key_of(text), changes)]
    experiment = [f"experiment={changes['experiment']}"] if "experiment" in changes else []
    others = {key: value for key, value in changes.items() if key != "experiment"}
    words = [*experiment, *kept, *(f"{key}={written(value)}" for key, value in others.items())]
    return Stage(name, recipe, tuple(words), tuple(needs))


def _says_again(key: str, changes: Mapping[str, Any]) -> bool:
    return key in changes or "evaluation.systems" in changes and key.startswith("evaluation.systems.")
