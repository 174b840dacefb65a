"""A whole evaluation on real questions with the real tokenizer and a small random model; kills cost nothing."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.command_lines import finish, refused
from tests.conftest import CHECKOUT

BENCHMARKS = {"aime24": 2, "aime25": 2, "math500": 4}  # name -> questions taken
SLOTS, ROUNDS = 6, 2


@pytest.fixture(scope="module")
def model(tmp_path_factory, shared_data) -> Path:
    """Random weights of Qwen2's architecture with every vocabulary row, and the real tokenizer."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    folder = tmp_path_factory.mktemp("models") / "random"
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(1)
    config = Qwen2Config(vocab_size=152064, num_key_value_heads=1, max_position_embeddings=4096, **shape)
    Qwen2ForCausalLM(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"):
        shutil.copy(shared_data / "tokenizer" / name, folder)
    return folder


def command(model: Path, data: Path, folder: Path, *more: str) -> list[str]:
    sources = [f"benchmarks.{name}.source={data / 'eval' / name}.jsonl" for name in BENCHMARKS]
    sizes = [f"benchmarks.{name}.max_questions={count}" for name, count in BENCHMARKS.items()]
    return [
        *(sys.executable, "recipes/evaluate.py", "experiment=ssft_math_32b", f"benchmarks=[{','.join(BENCHMARKS)}]"),
        *(*sources, *sizes, *(f"benchmarks.{name}.rounds={ROUNDS}" for name in BENCHMARKS)),
        *(f"evaluation.folder={folder}", "evaluation.max_tokens=12", "evaluation.grading.workers=1"),
        "engine.batch_size=5",
        f"evaluation.systems=[{{model: {model}, name: random, published: SSFT-32B, seed: 3}}]",
        *more,
    ]


@pytest.fixture(scope="module")
def evaluation(model, shared_data, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("evaluation") / "run"
    finish(command(model, shared_data, folder))
    return folder


def measurements(folder: Path) -> list[Path]:
    return [folder / name / "random-seed3" / "t0.7" for name in BENCHMARKS]


def test_every_sample_of_a_random_model_is_wrong_or_unparsable_and_nothing_is_missing(evaluation):
    results = json.loads((evaluation / "results.json").read_text())
    assert list(results["benchmarks"]) == list(BENCHMARKS)
    for name, count in BENCHMARKS.items():
        (row,) = results["benchmarks"][name]["systems"]["random"]
        assert row["samples"] == count * SLOTS * ROUNDS and row["missing"] == 0
        assert row["pass@1"] == row["cons@6"] == row["pass@6"] == 0
        assert row["verdicts"]["wrong"] + row["verdicts"]["unparsable"] == pytest.approx(1)
        assert row["truncated"] == pytest.approx(1)  # a random model does not stop


def test_results_say_what_made_them(evaluation):
    results = json.loads((evaluation / "results.json").read_text())
    assert results["provenance"]["torch"] and "git revision" in results["provenance"]
    assert results["published"] == {"random": "SSFT-32B"}
    for name, folder in zip(BENCHMARKS, measurements(evaluation), strict=True):
        described = results["benchmarks"][name]["describe"]
        assert len(json.dumps(described)) > 100 and any(len(str(value)) == 64 for value in described.values())
        settings = json.loads((folder / "settings.json").read_text())
        assert settings["engine"]["engine"] == "transformers" and settings["engine"]["dtype"] == "float32"
        assert settings["engine"]["version"] and len(settings["weights"]) == 64
        sampling = settings["sampling"]
        assert (sampling["temperature"], sampling["top_p"], sampling["seed"]) == (0.7, 0.95, 3)
        assert settings["tags"]["ids"] == [[151665 + tag] for tag in range(SLOTS)]
        assert "<|im_start|>user" in settings["chat_template"] and settings["chat_template_sha256"]
        grader = json.loads((folder / "grading.json").read_text())["grader"]
        assert "math" in json.dumps(grader)


def test_the_report_sets_measured_beside_published(evaluation):
    page, text = (evaluation / "report.html").read_text(), (evaluation / "report.md").read_text()
    for content in (page, text):
        assert "64.06" in content and "not run" in content  # SSFT-32B on AIME24, and the benchmarks left out
        assert "random" in content


def test_samples_carry_their_tag_and_its_ids_stand_behind_the_prompt(evaluation):
    lines = [json.loads(line) for line in (measurements(evaluation)[0] / "samples.jsonl").read_text().splitlines()]
    assert [line["tag"] for line in lines[::ROUNDS]] == [0, 1, 2, 3, 4, 5] * BENCHMARKS["aime24"]
    assert len({line["text"] for line in lines}) == len(lines)


@pytest.mark.parametrize("during", ["samples", "verdicts"])
def test_a_killed_evaluation_continues_to_the_identical_result(evaluation, model, shared_data, tmp_path, during):
    folder = tmp_path / "run"
    process = subprocess.Popen(
        command(model, shared_data, folder),
        cwd=CHECKOUT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    growing = measurements(folder)[2] / f"{during}.jsonl.partial"
    deadline = time.monotonic() + 200
    while not (growing.exists() and growing.read_bytes().count(b"\n") >= 3):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (folder / "results.json").exists()
    finish(command(model, shared_data, folder))
    for ours, theirs in zip(measurements(folder), measurements(evaluation), strict=True):
        for name in ("samples.jsonl", "verdicts.jsonl", "questions.jsonl", "metrics.json"):
            assert (ours / name).read_bytes() == (theirs / name).read_bytes(), name


def test_the_model_draws_its_own_tags_where_it_is_asked_to(model, shared_data, tmp_path):
    line = command(model, shared_data, tmp_path, "benchmarks=[aime24]")
    line = [word for word in line if "aime25" not in word and "math500" not in word or "[" in word]
    line = [word for word in line if not word.startswith("benchmarks=[aime24,")]
    finish([*line, f"evaluation.systems=[{{model: {model}, name: drawn, tags: own}}]"])
    folder = tmp_path / "aime24" / "drawn-seed0" / "t0.7"
    drawn = [json.loads(text) for text in (folder / "tags.jsonl").read_text().splitlines()]
    assert len(drawn) == BENCHMARKS["aime24"] * SLOTS * ROUNDS and len({line["tag"] for line in drawn}) > 1
    row = json.loads((folder / "metrics.json").read_text())
    assert row["tags_mode"] == "own" and sum(row["chosen"]) == pytest.approx(1)


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["evaluation.systems=[]"], "evaluation.systems is empty: nothing to evaluate"),
        (["evaluation.systems=[{model: nowhere}]"], "nowhere: no config.json there"),
        (["benchmarks.aime24.source=gone.jsonl"], "gone.jsonl"),
        (["evaluation.systems.0.run=gone"], "gone/metrics.jsonl: not there"),
        (["evaluation.systems.0.published=SSFT"], "the paper's tables have no such row; choose from"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_generated(model, shared_data, tmp_path, capsys, more, expected):
    assert expected in refused(command(model, shared_data, tmp_path / "run", *more), capsys)
    assert not (tmp_path / "run").exists()
