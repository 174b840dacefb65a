"""What a campaign runs: tiny SSFT and GFPO runs, as their recipes start them, under layouts of up to four ranks."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from nemo_forking.config import Config
from nemo_forking.training.launch import start_training
from nemo_forking.training.launch_policy import start_policy
from tests.distributed import policy_runs, runs
from tests.distributed.resuming import ADAM

LAYOUTS = {
    "one process": {"layout.devices": 1},
    "data 2": {"layout.devices": 2},
    "tensor 2": {"layout.devices": 2, "layout.tensor": 2},
    "pipeline 2": {"layout.devices": 2, "layout.pipeline": 2},
    "tensor 2 x pipeline 2": {
        "layout.devices": 4,
        "layout.tensor": 2,
        "layout.pipeline": 2,
        "layout.sequence_parallel": True,
    },
}
RECIPES = ("ssft", "gfpo")
STEPS = {"ssft": 6, "gfpo": 3}


@dataclass(frozen=True)
class Ground:
    """Data, tokenizer and base models in `home`, which may be copied elsewhere."""

    home: Path

    def config(self, recipe: str, folder: Path, changes: dict | None = None) -> Config:
        """A run of a recipe in `folder`; built once, so that it is there even where files are damaged meanwhile."""
        return self._in(folder, _config(self.home, recipe, tuple(sorted((changes or {}).items()))))

    def checked_config(self, recipe: str, folder: Path) -> Config:
        """As `config`, built anew, as a recipe does when it starts: UserError where what it reads is damaged."""
        return self._in(folder, _config.__wrapped__(self.home, recipe, ()))

    @staticmethod
    def _in(folder: Path, config: Config) -> Config:
        return dataclasses.replace(config, run=dataclasses.replace(config.run, folder=str(folder)))


@cache
def _config(home: Path, recipe: str, changes: tuple) -> Config:
    values = ADAM | {"trainer.max_steps": STEPS[recipe]} | dict(changes)
    if recipe == "ssft":
        ssft = home / "ssft"
        ground = runs.Ground(ssft / "data", ssft / "tokenizer", ssft / "base", ssft / "tied_base")
        return runs.tiny(ground, home / "run", values)
    gfpo, none = home / "gfpo", home / "none"
    ground = policy_runs.PolicyGround(none, gfpo / "base", gfpo / "base", none, gfpo / "prompts")
    return policy_runs.tiny_policy(ground, home / "run", values | {"optim.lr": 5e-3})


def lay_ground(home: Path, recipes: tuple[str, ...] = RECIPES) -> Ground:
    """Write what the recipes start from."""
    if "ssft" in recipes:
        runs.lay_ground(home / "ssft")
    if "gfpo" in recipes:
        policy_runs.lay_ground(home / "gfpo")
    return Ground(home)


def start(recipe: str) -> Callable[[Config], None]:
    """What the recipe calls: everything from the checks before the ranks start to the exported model."""
    return {"ssft": start_training, "gfpo": start_policy}[recipe]


def with_layout(config: Config, name: str) -> Config:
    """The run under another layout."""
    values = {key.removeprefix("layout."): value for key, value in LAYOUTS[name].items()}
    return dataclasses.replace(config, layout=dataclasses.replace(config.layout, **values))
