"""The whole study on a few steps: its results, what a second run repeats (nothing), and what a kill costs (nothing)."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from nemo_forking.evaluation.folder import SAMPLES, load_joined
from tests import small_study
from tests.command_lines import PATIENCE, finish, refused, run_here
from tests.conftest import CHECKOUT
from tests.run_files import records

MODELS = ("base", "optimal", "random", "gfpo", "grpo")  # trained one after the other
ASKED = ("base", "optimal", "random", "optimal_own", "gfpo", "gfpo_every", "grpo", "grpo_every")
BATCHES, ROLLOUTS = 2, 4 * 6  # of a policy; questions times group of a batch


def command(folder: Path, *more: str) -> list[str]:
    return small_study.command(folder, "trainer.max_steps=4", *more)


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("study") / "run"
    finish(command(folder))
    return folder


def test_results_hold_one_row_per_rule_and_seed_with_rates_as_fractions(study):
    results = json.loads((study / "results.json").read_text())
    assert set(results["rules"]) == {"optimal", "random"}
    for rows in results["rules"].values():
        assert [row["seed"] for row in rows] == [1]
        for name in ("best_tag_pass@1", "pass@1", "cons@6", "pass@6"):
            assert 0 <= rows[0][name] <= 1
        assert rows[0]["mutual_information_bits"] >= 0 and len(rows[0]["per_tag"]) == 6
        assert len(load_joined(study / rows[0]["folder"])) == 5 * 6 * 2


def test_results_hold_one_row_per_policy_and_seed_beside_the_model_it_started_from(study):
    results = json.loads((study / "results.json").read_text())
    assert results["policy_names"] == ["gfpo", "grpo"]
    assert set(results["policies"]) == {"optimal_own", "gfpo", "gfpo_every", "grpo", "grpo_every"}
    (ssft,) = results["rules"]["optimal"]
    for name in ("gfpo", "grpo"):
        (row,) = results[name]
        (chosen,) = results["policies"][name]
        assert row["seed"] == 1 and row["start"] == "optimal" and row["pass@1"] == chosen["pass@1"]
        assert row["ssft_best_tag_pass@1"] == pytest.approx(ssft["best_tag_pass@1"])
        assert row["ssft_best_tag_pass@1"] <= row["oracle_tag_pass@1"] <= 1
        assert row["rollouts"] == {"steps": BATCHES, "drawn": BATCHES * ROLLOUTS, "reused": 0}
        for when in ("before", "after"):
            shares = row[f"tag_distribution_{when}"].values()
            assert all(len(share) == 6 and sum(share) == pytest.approx(1) for share in shares)


def test_gfpo_tries_every_tag_and_grpo_as_many_rollouts_of_its_own(study):
    gfpo, grpo = (rollouts(study / "seed1" / name) for name in ("gfpo", "grpo"))
    assert len(gfpo) == len(grpo) == BATCHES
    for every, drawn in zip(gfpo, grpo, strict=True):
        assert every["questions"] == drawn["questions"]  # the same prompts in the same batches
        assert every["tag_QG"] == [[0, 1, 2, 3, 4, 5]] * 4 and drawn["tag_QG"] != every["tag_QG"]


def rollouts(run: Path) -> list[dict]:
    """The tables of a policy's batches, in order."""
    return [json.loads(file.read_text()) for file in sorted(run.glob("rollouts/*/rollouts.json"))]


def test_the_two_rules_train_on_the_same_questions_and_only_optimal_scores(study):
    optimal, random = (records(study / "seed1" / rule) for rule in ("optimal", "random"))
    assert [record["step"] for record in optimal] == [record["step"] for record in random] == [1, 2, 3, 4]
    assert all(record["tokens_scored"] > 0 and record["cost_mean"] > 0 for record in optimal)
    assert all(record["tokens_scored"] == 0 and record["cost_mean"] is None for record in random)
    assert [record["tokens"] for record in optimal] == [record["tokens"] for record in random]


def test_the_report_stands_beside_the_results_and_names_rules_and_policies(study):
    page, text = (study / "report.html").read_text(), (study / "report.md").read_text()
    assert page.lstrip().lower().startswith("<!doctype html") and "data:image" in page
    assert all(name in page and name in text for name in ("optimal", "random", "gfpo", "grpo"))


def test_a_second_run_repeats_no_stage(study):
    names = ("metrics.jsonl", "*.safetensors", "fork.json", "samples.jsonl", "verdicts.jsonl", "rollouts.json")
    before = {file: (file.stat().st_mtime_ns, file.read_bytes()) for name in names for file in study.rglob(name)}
    graded = len(ASKED) + 2 * BATCHES  # measurements, and batches of two policies
    assert len([file for file in before if "checkpoints" not in file.parts]) == 2 * len(MODELS) + 2 * (graded + 4)
    finish(command(study))
    assert {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in before} == before


def test_a_study_killed_in_a_policy_continues_to_the_same_numbers(study, tmp_path):
    folder = tmp_path / "run"
    process = subprocess.Popen(
        command(folder), cwd=CHECKOUT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    fork, deadline = folder / "seed1" / "gfpo" / "rollouts" / "batch_0000002" / "fork.json", time.monotonic() + 300
    while not fork.exists():  # the second of two steps has begun, and nothing is saved before it ends
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not list(folder.glob("seed1/gfpo/checkpoints/step_*")) and not (folder / "seed1" / "grpo").exists()
    drawn = fork.read_bytes()
    finish(command(folder))
    assert fork.read_bytes() == drawn
    for name in MODELS:
        ours, theirs = (home / "seed1" / name for home in (folder, study))
        assert records(ours) == records(theirs)
    for name in ASKED:
        place = Path("evaluation", "many_ways", f"{name}-seed1", "t0.7", SAMPLES)
        assert (folder / place).read_bytes() == (study / place).read_bytes()
    ours, theirs = (json.loads((home / "results.json").read_text()) for home in (folder, study))
    assert all(ours[key] == theirs[key] for key in ("rules", "gfpo", "grpo"))


def test_status_tells_complete_stages_and_where_an_unfinished_one_stands(study, tmp_path, capsys):
    assert set(status(study, capsys).values()) == {"complete"}
    folder = copy(study, tmp_path)
    shutil.rmtree(folder / "seed1" / "grpo" / "model")
    told = status(folder, capsys)
    assert told.pop("grpo-seed1") == f"stopped step 2 of 2, {folder}/seed1/grpo/model is not exported yet"
    assert told.pop("evaluation") == "waiting for grpo-seed1" and told.pop("table") == "waiting for evaluation"
    assert len(told) == 8 and set(told.values()) == {"complete"}
    assert set(status(tmp_path / "none", capsys).values()) & {"complete"} == set()
    assert not (tmp_path / "none").exists()


def test_a_damaged_model_is_exported_again_and_nothing_before_it_is_repeated(study, tmp_path, capsys):
    folder = copy(study, tmp_path)
    (weights,) = (folder / "seed1" / "grpo" / "model").glob("*.safetensors")
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-8])
    assert status(folder, capsys)["grpo-seed1"] == f"stopped step 2 of 2, {folder}/seed1/grpo/model is damaged"
    before = {file: file.stat().st_mtime_ns for file in folder.rglob("*.safetensors") if file != weights}
    samples = {file: file.stat().st_mtime_ns for file in folder.rglob(SAMPLES)}
    said = finish(command(folder))
    assert f"{weights.parent} is damaged, and is to be exported again: {weights.name} has" in said
    assert "optimal-seed1: complete" in said
    assert weights.read_bytes() == whole  # bit for bit, so that its samples stand
    assert {file: file.stat().st_mtime_ns for file in before} == before
    assert {file: file.stat().st_mtime_ns for file in samples} == samples
    assert set(status(folder, capsys).values()) == {"complete"}


def test_a_damaged_model_without_checkpoints_is_refused_and_not_trained_anew(study, tmp_path, capsys):
    folder = copy(study, tmp_path)
    shutil.rmtree(folder / "seed1" / "grpo" / "checkpoints")
    (weights,) = (folder / "seed1" / "grpo" / "model").glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-8])
    assert "has no checkpoint to export it from again" in status(folder, capsys)["grpo-seed1"]
    assert "has no checkpoint to export it from again" in refused(command(folder), capsys)


def test_status_tells_why_a_stage_failed_here(study, tmp_path, capsys):
    folder = copy(study, tmp_path)
    shutil.rmtree(folder / "evaluation")
    (folder / "evaluation").write_text("in the way")
    done = subprocess.run(command(folder), cwd=CHECKOUT, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode != 0
    told = status(folder, capsys)
    assert told["evaluation"].startswith("failed") and f"{folder}/evaluation" in told["evaluation"]
    assert told["table"] == "waiting for evaluation"


def copy(study: Path, there: Path) -> Path:
    """The study elsewhere: nothing it depends on is known by its path."""
    return Path(shutil.copytree(study, there / "run"))


def status(folder: Path, capsys) -> dict[str, str]:
    """Stage -> what --status says of it, in this process."""
    assert run_here(command(folder, "--status")) == 0
    lines = capsys.readouterr().out.splitlines()[1:-1]  # between titles and sum
    return {line.split()[0]: " ".join(line.split()[1:]) for line in lines}


def test_another_setting_in_the_same_folder_is_refused_by_name(study, capsys):
    message = refused(command(study, "matching.tokens=7"), capsys)
    assert "belongs to another run" in message and "matching.tokens: there 6, here 7" in message


@pytest.mark.parametrize("launcher", [{}, {"RANK": "0", "WORLD_SIZE": "2"}], ids=["gpu layout", "torchrun"])
def test_a_study_that_others_would_have_to_start_is_refused(launcher, tmp_path, monkeypatch, capsys):
    for name, value in launcher.items():
        monkeypatch.setenv(name, value)
    message = refused(command(tmp_path / "run", *([] if launcher else ["layout.accelerator=gpu"])), capsys)
    assert "a study starts its own ranks, on the CPU" in message and not (tmp_path / "run").exists()
