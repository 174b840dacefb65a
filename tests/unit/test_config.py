"""Configuration: composition, overrides, origins, and what a run folder keeps of them."""

import dataclasses
import json
import shutil
import subprocess
import sys

import pytest
import yaml

from nemo_forking.config import load, provenance, read_resolved, resolved_yaml, save_resolved, with_overrides
from nemo_forking.config.compose import CONF
from nemo_forking.config.fields import help_lines, hints, nested
from nemo_forking.config.load import plain_values
from nemo_forking.config.schema import BenchmarkConfig, Config
from nemo_forking.errors import UserError

EXPERIMENTS = sorted(file.stem for file in (CONF / "experiment").glob("*.yaml"))


def blocks(schema=Config):
    """Every dataclass of the schema."""
    yield schema
    for annotation in hints(schema).values():
        if nested(annotation):
            yield from blocks(nested(annotation))


def leaves(values, prefix=""):
    """Dotted keys of nested plain values."""
    for name, value in values.items():
        yield from leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else [prefix + name]


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_loads_and_is_named_after_its_file(experiment):
    config = load([f"experiment={experiment}"])
    assert config.run.name == experiment
    assert config.run.folder == f"runs/{experiment}"


@pytest.mark.parametrize("group", ["model", "layout", "data", "matching", "engine"])
def test_every_file_of_a_group_sets_every_key_of_its_block(group):
    block = nested(hints(Config)[group])
    for file in (CONF / group).glob("*.yaml"):
        assert set(yaml.safe_load(file.read_text())) == {field.name for field in dataclasses.fields(block)}, file


def test_every_benchmark_sets_every_key_of_its_block_under_its_own_name():
    for file in (CONF / "benchmarks").glob("*.yaml"):
        assert file.read_text().splitlines()[0] == f"# @package benchmarks.{file.stem}"
        assert set(yaml.safe_load(file.read_text())) == {field.name for field in dataclasses.fields(BenchmarkConfig)}


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_value_is_marked_paper_ours_or_unpublished(experiment):
    overrides = [f"experiment={experiment}"]
    marks = provenance(overrides)
    assert set(marks) == set(leaves(plain_values(load(overrides))))
    assert {key: mark.place for key, mark in marks.items() if mark.kind not in ("paper", "ours", "unpublished")} == {}
    assert {key: mark.place for key, mark in marks.items() if mark.kind == "unpublished" and not mark.note} == {}


@pytest.mark.parametrize("layout", sorted(file.stem for file in (CONF / "layout").glob("*.yaml")))
def test_every_layout_suits_the_model_it_is_made_for(layout):
    experiment = "real_traces_trial" if layout.startswith("cpu") else "ssft_math_32b"
    config = load([f"experiment={experiment}", f"layout={layout}"])
    parts = config.layout.tensor * config.layout.pipeline * config.layout.context * config.layout.data
    assert parts == config.layout.processes
    if not layout.startswith("cpu"):
        assert config.layout.processes == int(layout.partition("x")[0])  # 64xa100: 64 GPUs


def test_every_key_has_help():
    for block in blocks():
        assert [name for name, text in help_lines(block).items() if not text] == [], block.__name__


def test_the_paper_setting_is_what_is_published():
    config = load(["experiment=ssft_math_32b"])
    assert (config.tags.count, config.data.traces, config.matching.tokens) == (6, 4, 1000)
    assert (config.model.num_layers, config.model.hidden_size, config.model.vocab_size) == (64, 5120, 152064)
    assert config.batch.questions * config.data.traces * config.trainer.max_steps == 5 * 1000 * 4  # five epochs
    marks = provenance(["experiment=ssft_math_32b"])
    assert marks["matching.tokens"].kind == "paper"
    assert (marks["optim.lr"].kind, marks["optim.lr"].note) == ("unpublished", "guess from the s1 recipe")


def test_the_command_line_wins_over_the_experiment_and_the_last_word_over_the_first():
    config = load(["optim.lr=1", "experiment=tiny", "layout=cpu1", "optim.lr=2e-3", "study.seeds=[7,8]"])
    assert config.optim.lr == 2e-3
    assert (config.layout.devices, config.layout.data) == (1, 1)
    assert config.study.seeds == (7, 8)


def test_a_default_experiment_gives_way_to_one_on_the_command_line():
    assert load(experiment="tiny").run.name == "tiny"
    assert load(["experiment=tiny_study"], experiment="tiny").run.name == "tiny_study"


def test_a_block_on_the_command_line_is_merged_and_numbers_serve_as_names():
    config = load(["experiment=tiny", "optim={lr:0.5,beta1:0.8}", "run.name=7"])
    assert (config.optim.lr, config.optim.beta1, config.optim.beta2) == (0.5, 0.8, 0.95)
    assert config.run.folder == "runs/7"


def test_origins_name_file_and_line_and_the_command_line():
    marks = provenance(["experiment=tiny", "optim.lr=1"])
    assert (marks["optim.lr"].kind, marks["optim.lr"].place) == ("command line", "command line")
    place = marks["trainer.max_steps"].place
    name, line = place.split(":")
    assert name == "conf/experiment/tiny.yaml"
    assert (CONF.parent / name).read_text().splitlines()[int(line) - 1].strip().startswith("max_steps:")


def test_a_run_folder_gives_back_its_configuration_with_origins_and_versions(tmp_path):
    config = load(["experiment=ssft_math_32b", "optim.lr=3e-6"])
    save_resolved(config, tmp_path / "run")
    again = read_resolved(tmp_path / "run")
    assert dataclasses.asdict(again) == plain_values(config)
    lines = (tmp_path / "run" / "config.yaml").read_text().splitlines()
    assert any("lr: 3.0e-06" in line and line.endswith("# command line") for line in lines)
    assert any("count: 6" in line and line.endswith("# paper: N = 6") for line in lines)
    versions = json.loads((tmp_path / "run" / "versions.json").read_text())
    assert versions["torch"] and "git revision" in versions
    assert sorted(file.name for file in (tmp_path / "run").iterdir()) == ["config.yaml", "versions.json"]


def test_a_broken_run_folder_is_said_to_be_one(tmp_path):
    with pytest.raises(UserError, match="is not a run folder"):
        read_resolved(tmp_path)
    (tmp_path / "config.yaml").write_text("run: [")
    with pytest.raises(UserError, match="config.yaml cannot be read"):
        read_resolved(tmp_path)
    (tmp_path / "config.yaml").write_text("rum: {}")
    with pytest.raises(UserError, match="unknown key rum; did you mean run?"):
        read_resolved(tmp_path)


def test_a_recipe_can_derive_configurations_which_are_checked_again():
    config = load(["experiment=tiny"])
    derived = with_overrides(config, {"matching.rule": "random", "run.folder": "runs/x", "study": None})
    assert (derived.matching.rule, derived.run.folder, derived.study) == ("random", "runs/x", None)
    assert (config.matching.rule, derived.optim) == ("optimal", config.optim)
    assert "rule: random" in resolved_yaml(derived) and "# set by the recipe" in resolved_yaml(derived)
    with pytest.raises(UserError, match="recipe: unknown key matching.rul; did you mean matching.rule?"):
        with_overrides(config, {"matching.rul": "random"})
    with pytest.raises(UserError, match="layout.tensor=3"):
        with_overrides(config, {"layout.tensor": 3, "layout.devices": 3})
    with pytest.raises(UserError, match="optim.lr.x cannot be changed: optim.lr is not a block of keys"):
        with_overrides(config, {"optim.lr.x": 3})


def test_the_shape_is_compared_with_the_checkpoint_it_starts_from(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 64, "rms_norm_eps": 1e-5}))
    with pytest.raises(UserError, match=r"model.norm_eps=1e-06, but .*config.json has rms_norm_eps=1e-05"):
        load(["experiment=tiny", f"model.base={tmp_path}"])
    assert load(["experiment=tiny", f"model.base={tmp_path}", "model.norm_eps=1e-5"]).model.base == str(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="config.json cannot be read"):
        load(["experiment=tiny", f"model.base={tmp_path}"])


def test_another_conf_folder_can_be_given(tmp_path):
    shutil.copytree(CONF, tmp_path / "conf")
    (tmp_path / "conf" / "experiment" / "mine.yaml").write_text("# @package _global_\nrun: {name: mine}\n")
    assert load(["experiment=mine"], conf=tmp_path / "conf").run.name == "mine"
    with pytest.raises(UserError, match="holds no config.yaml; run from a checkout"):
        load(conf=tmp_path)


def test_loading_a_configuration_imports_neither_nemo_nor_megatron():
    code = "import sys, nemo_forking.cli; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=CONF.parent, capture_output=True, text=True, check=True)
    assert {"nemo", "megatron", "lightning", "transformers"}.isdisjoint(done.stdout.split())


def test_several_benchmarks_are_chosen_at_once_and_each_is_set_under_its_own_name():
    config = load(["benchmarks=[math500,aime24]", "benchmarks.aime24.source=here.jsonl"])
    assert set(config.benchmarks) == {"math500", "aime24"}
    assert config.benchmarks["aime24"].source == "here.jsonl"


def test_systems_are_a_list_of_blocks_with_defaults():
    config = load(["evaluation.systems=[{model: a},{model: b, name: theirs, tags: own}]"])
    first, second = config.evaluation.systems
    assert (first.model, first.name, first.tags) == ("a", "model", "every")
    assert (second.model, second.name, second.tags) == ("b", "theirs", "own")
    assert load(["evaluation.systems=[]"]).evaluation.systems == ()


def test_a_resolved_configuration_with_lists_of_blocks_is_read_back(tmp_path):
    config = load(["experiment=tiny"])
    save_resolved(config, tmp_path)
    assert plain_values(read_resolved(tmp_path)) == plain_values(config)
