"""The stages of a study: their order, and that each one's command line means what it should."""

import dataclasses
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from nemo_forking.cluster.graph import graph
from nemo_forking.cluster.outlook import expect
from nemo_forking.cluster.stages import SCRIPTS, Stage
from nemo_forking.config import load
from nemo_forking.config.written import written
from nemo_forking.errors import UserError
from nemo_forking.plan.plan import make_plan
from nemo_forking.plan.show import size

ROOT = Path(__file__).resolve().parents[2]
STUDIES = ["tiny", "tiny_study", "math_32b", "code_32b"]


@cache
def stages(experiment: str, *overrides: str) -> dict[str, Stage]:
    return {stage.name: stage for stage in graph(load([f"experiment={experiment}", *overrides]))}


@pytest.mark.parametrize("experiment", STUDIES)
def test_every_stage_comes_after_those_it_needs_and_the_table_needs_all(experiment):
    before: set[str] = set()
    for name, stage in stages(experiment).items():
        assert set(stage.needs) <= before and name not in before
        assert (ROOT / "recipes" / f"{stage.recipe}.py").is_file() and stage.recipe in SCRIPTS
        before.add(name)
    reached, waiting = set(), ["table"]
    while waiting:
        reached.add(waiting[-1])
        waiting += [name for name in stages(experiment)[waiting.pop()].needs if name not in reached]
    assert reached == before


def test_the_graph_of_the_papers_math_table():
    needs = {name: stage.needs for name, stage in stages("math_32b").items()}
    assert [name for name, needed in needs.items() if not needed] == [
        "data",
        "prompts",
        "base",
        "evaluation-base-seed1",
    ]
    assert all(needs[f"{rule}-seed1"] == ("data", "base") for rule in ("optimal", "random", "fixed", "mixed"))
    assert needs["gfpo-seed1"] == ("prompts", "optimal-seed1")
    assert needs["tags_grpo-seed1"] == ("prompts", "fixed-seed1")
    assert needs["evaluation-gfpo-seed1"] == ("gfpo-seed1",)


@pytest.mark.parametrize("experiment", ["tiny", "math_32b", "code_32b"])
def test_every_command_line_loads_and_writes_where_no_other_does(experiment):
    written_by: dict[str, str] = {}
    for name, stage in stages(experiment).items():
        config = stage.config
        folder = {
            "prepare_data": config.data.folder,
            "prepare_prompts": config.prompts.folder,
            "convert": config.convert.folder,
            "evaluate": config.evaluation.folder,
            "ssft": config.run.folder,
            "gfpo": config.run.folder,
        }.get(stage.recipe, f"{config.run.folder} of {name}")
        assert written_by.setdefault(folder, name) == name


def test_rules_are_the_experiments_that_docs_name():
    for rule in ("optimal", "random", "fixed"):
        by_hand = load(["experiment=ssft_math_32b", f"matching={rule}", "tags.seed=1"])
        assert_same(stages("math_32b")[f"{rule}-seed1"].config, by_hand)
    assert_same(stages("math_32b")["mixed-seed1"].config, load(["experiment=sft_mixed_32b", "tags.seed=1"]))


def test_policies_are_the_experiments_that_docs_name():
    assert_same(stages("math_32b")["gfpo-seed1"].config, load(["experiment=gfpo_math_32b"]), "prompts")
    assert_same(stages("math_32b")["tags_grpo-seed1"].config, load(["experiment=grpo_math_32b"]), "prompts")
    assert_same(stages("code_32b")["gfpo-seed1"].config, load(["experiment=gfpo_code_32b"]), "prompts")


def assert_same(ours, theirs, *more: str) -> None:
    """Equal in all that decides the numbers, save where files lie."""
    for block in (
        "model",
        "layout",
        "tags",
        "batch",
        "matching",
        "loss",
        "optim",
        "trainer",
        "rollout",
        "policy",
        *more,
    ):
        here, there = (dataclasses.asdict(getattr(config, block)) for config in (ours, theirs))
        for values in (here, there):
            values.pop("base", None), values.pop("folder", None)
        assert here == there, block
    data = [dataclasses.replace(config.data, tokenizer="", folder="") for config in (ours, theirs)]
    assert data[0] == data[1] or more and data[0].prompt == data[1].prompt  # a policy reads of them the template only


def test_the_systems_of_the_paper_are_asked_as_its_table_has_them():
    asked = [stage.config.evaluation.systems[0] for stage in stages("math_32b").values() if stage.recipe == "evaluate"]
    table = load(["experiment=table_math_32b"]).evaluation.systems
    told = [(one.name, one.tags, one.one_tag, one.published) for one in asked]
    assert told[:-1] == [(one.name, one.tags, one.one_tag, one.published) for one in table]
    assert told[-1] == ("Qwen2.5-32B", "none", 0, "Qwen2.5-32B-Instruct")


def test_a_users_settings_reach_every_stage_and_the_stages_own_come_last():
    given = ("layout=16xh100", "data.source=[a b.jsonl]", "optim.lr=2e-6", "trainer.max_steps=7", "launcher=slurm")
    made = stages("math_32b", *given, "launcher.partition=gpu", "study.action=plan")
    for stage in made.values():
        assert {"layout=16xh100", "data.source=[a b.jsonl]"} <= set(stage.overrides)
        assert not [word for word in stage.overrides if word.startswith(("launcher", "study.action"))]
        assert stage.config.layout.nodes == 2 and list(stage.config.data.source) == ["a b.jsonl"]
    rule, policy = made["random-seed1"].config, made["gfpo-seed1"].config
    assert (rule.optim.lr, rule.trainer.max_steps) == (2e-6, 7)
    assert (policy.optim.lr, policy.trainer.max_steps) == (1e-6, 10)  # of study.policies and study.policy


def test_a_rule_on_the_command_line_is_not_every_rules():
    for word in ("matching.rule=random", "matching=random"):
        made = stages("tiny_study", word)
        for rule in ("optimal", "random", "fixed", "mixed"):
            assert made[f"{rule}-seed1"].config.matching.rule == rule
        assert made["base-seed1"].config.matching.rule == "none"


def test_study_settings_decide_which_stages_there_are():
    few = stages("math_32b", "study.rules=[optimal]", "study.policies=[]", "study.convert=false", "study.seeds=[1,2]")
    assert list(few) == [
        "data",
        "optimal-seed1",
        "optimal-seed2",
        "evaluation-optimal-seed1",
        "evaluation-base-seed1",
        "evaluation-optimal-seed2",
        "evaluation-base-seed2",
        "table",
    ]
    assert few["optimal-seed2"].config.model.base == "models/Qwen2.5-32B-Instruct"
    assert (few["optimal-seed2"].config.run.seed, few["optimal-seed2"].config.tags.seed) == (2, 2)


def test_what_is_no_study_is_refused_before_anything_starts():
    with pytest.raises(UserError, match="study is null: take an experiment with a study"):
        graph(load(["experiment=ssft_math_32b"]))
    with pytest.raises(UserError, match=r"has benchmarks=\[many_ways\], not \['aime24'\]"):
        graph(load(["experiment=tiny", "benchmarks=[aime24]", "launcher=slurm"]))


def test_values_are_read_back_as_they_were_written():
    texts = [
        "a'b",
        'a"b',
        'a\\"b',
        "a\\",
        "x y",
        "σ (x)",
        "true",
        "1",
        "",
        "a,b]",
        "{q}\n\n",
        '"',
        "~/x",
        "1e-5",
        "/a-b",
    ]
    config = load(["experiment=tiny", f"data.source={written(texts)}", "data.prompt=" + written(texts[2])])
    assert list(config.data.source) == texts and config.data.prompt == texts[2]
    numbers = load(["experiment=tiny", f"evaluation.temperatures={written([0.0, 1e-6, 2])}"]).evaluation.temperatures
    assert numbers == (0.0, 1e-6, 2.0)


def test_a_dry_run_needs_neither_torch_nor_nemo_and_submits_nothing(tmp_path):
    for name in ("torch", "nemo", "megatron", "transformers"):
        (tmp_path / f"{name}.py").write_text(f"raise ImportError('{name} was imported')")
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}", "PATH": f"{tmp_path}:/usr/bin:/bin"}
    command = ["recipes/reproduce.py", "experiment=math_32b", f"run.folder={tmp_path}/math", "layout=8xh200"]
    words = [sys.executable, *command, "launcher=slurm", "launcher.partition=gpu", "--dry-run"]
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "math").exists()
    lines = done.stdout.splitlines()
    commands = [line.split(". ", 1)[1] for line in lines if ". sbatch --parsable" in line]
    assert [next(word for word in line.split() if "job-name" in word) for line in commands] == [
        f"--job-name=math-{name}" for name in stages("math_32b")
    ]
    assert all("--partition=gpu" in line for line in commands)
    hours = f"{8 * make_plan(load(['experiment=ssft_math_32b', 'layout=8xh200'])).hours:.1f}"
    (row,) = [line for line in lines if "optimal-seed1" in line and "evaluation" not in line and "sbatch" not in line]
    assert [cell.strip() for cell in row.strip("│").split("│")][3:7] == ["1, 3", "1", "8", hours]
    assert "data.source is not set; give data.source=..." in done.stdout
    assert "no model folder (it lacks config.json)" in done.stdout


def test_hours_and_disk_in_the_docs_are_what_the_planner_says():
    page = (ROOT / "docs" / "reproduce.md").read_text(encoding="utf-8").split("a test holds this table")[1]
    title, _, *lines = [line for line in page.split("\n## ")[0].splitlines() if line.startswith("|")]
    layouts = [cell.strip() for cell in title.strip("|").split("|")][1:-1]
    told = {}
    for line in lines:
        name, *cells = (cell.strip(" `") for cell in line.strip("|").split("|"))
        told[name] = cells
    trained = [name for name, stage in stages("math_32b").items() if stage.recipe in ("ssft", "gfpo")]
    assert [f"{name}-seed1" for name in told] == trained
    for place, layout in enumerate(layouts):
        made = stages("math_32b", f"layout={layout}")
        for name, cells in told.items():
            expected = expect(made[f"{name}-seed1"], load(["launcher=slurm"]).launcher)
            assert cells[place] == f"{expected.gpu_hours:.1f}" and cells[-1] == size(expected.disk), (name, layout)
