"""docs/layouts.md: the figures of its tables are what the planner says of conf/ today."""

from functools import cache

import pytest
import yaml

from nemo_forking.config import Config, load, with_overrides
from nemo_forking.config.compose import CONF
from nemo_forking.plan.memory import GIB, fits
from nemo_forking.plan.nearest import nearest
from nemo_forking.plan.plan import make_plan

PAGE = (CONF.parent / "docs" / "layouts.md").read_text(encoding="utf-8")
LAYOUTS = [file.stem for file in (CONF / "layout").glob("*.yaml") if not file.stem.startswith("cpu")]
EXPERIMENTS = ["ssft_math_32b", "sft_mixed_32b", "gfpo_math_32b", "grpo_math_32b"]


def rows(title: str) -> list[list[str]]:
    """Cells of the table below a heading."""
    lines = PAGE.split(f"## {title}\n")[1].split("\n## ")[0].splitlines()
    return [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines if line.startswith("| `")]


@cache
def loaded(experiment: str) -> Config:
    return load([f"experiment={experiment}"])


def config(experiment: str, overrides: str) -> Config:
    """As `recipes/plan.py experiment=... layout=...` has it."""
    layout, *others = overrides.split()
    values = yaml.safe_load((CONF / "layout" / f"{layout.removeprefix('layout=')}.yaml").read_text())
    changes = {f"layout.{key}": value for key, value in values.items()}
    return with_overrides(
        loaded(experiment), changes | {k: yaml.safe_load(v) for k, v in (o.split("=") for o in others)}
    )


def figures(overrides: str) -> list[str]:
    plan = make_plan(config("ssft_math_32b", overrides))
    return [
        f"{max(stage.peak for stage in plan.stages) / GIB:.0f} of {plan.room / GIB:.0f}",
        *(f"{part.gpu_seconds:.2f} s, {part.bubble:.0%}" for part in (plan.scoring, plan.training)),
        f"{plan.hours:.1f}",
    ]


def test_what_the_layouts_take_is_what_the_planner_says():
    table = rows("What the layouts take")
    assert {f"layout={name}" for name in LAYOUTS} <= {cells[0] for cells in table}
    for overrides, *rest in table:
        assert rest == figures(overrides), overrides


def test_hours_of_every_experiment():
    table = {overrides.removeprefix("layout="): rest for overrides, *rest in rows("Hours")}
    assert set(table) == set(LAYOUTS)
    for name, rest in table.items():
        assert rest == [f"{make_plan(config(e, f'layout={name}')).hours:.2f}" for e in EXPERIMENTS], name


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_layout_fits_or_is_refused_with_one_that_does(experiment):
    for name in LAYOUTS:
        for smaller in ("", " layout.memory_gib=60"):
            one = config(experiment, f"layout={name}{smaller}")
            if not fits(one):
                changes = {f"layout.{key}": value for key, value in nearest(one).items()}
                assert fits(with_overrides(one, changes)), (name, changes)
            else:
                assert nearest(one) == {}
