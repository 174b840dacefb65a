"""The prepare_prompts recipe as a user runs it: the laptop task, and the trial data against real benchmarks."""

import json
import runpy
from pathlib import Path

import pytest

from nemo_forking.rl.prompts import load_prompts
from nemo_forking.tasks import many_ways

RECIPE = Path(__file__).parents[2] / "recipes" / "prepare_prompts.py"


@pytest.fixture
def prepare(capsys, monkeypatch):
    """Run the recipe; give its status and output."""
    monkeypatch.setenv("COLUMNS", "120")
    recipe = runpy.run_path(str(RECIPE))["main"]

    def run(*arguments):
        status = recipe(list(map(str, arguments)))
        return status, *capsys.readouterr()

    return run


def test_the_laptop_tasks_prompts_and_the_same_command_again(prepare, tmp_path):
    many_ways.write(tmp_path / "source", base=0, train=50, heldout=20, seed=1)
    (tmp_path / "source" / "train.jsonl").rename(tmp_path / "source" / "rl.jsonl")
    settings = ["experiment=tiny", f"run.folder={tmp_path}", "prompts.count=30"]
    status, out, err = prepare(*settings)
    assert status == 0, err
    assert "50 of 50 RL prompts kept" in out and "many_ways: nothing" in out
    assert "30 prompts drawn of 50: 30 many_ways" in out and "Sample: many_ways question train-1-" in out
    assert out.rstrip().endswith(f"Prepared 30 prompts in {tmp_path}/prompts")

    status, out, err = prepare(*settings)
    assert status == 0 and "Up to date" in out and "Sample: many_ways question" in out
    status, out, err = prepare(*settings, "prompts.seed=1")
    assert status == 2 and f"error: {tmp_path}/prompts: prepared before, with other prompts.seed; remove" in err


def test_bad_input_is_answered_with_its_place(prepare, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"id": "c1", "kind": "pytest", "problem": "Do it.", "tests": "x"}\n')
    math = tmp_path / "math.jsonl"
    math.write_text('{"id": "m1", "problem": "What is 1+1?", "answer": "2"}\n')
    settings = ["prompts=plain_code", f"prompts.source=[{tmp_path}/a.jsonl]", f"run.folder={tmp_path}"]
    settings += ["benchmarks=[math500]", f"benchmarks.math500.source={math}"]
    status, _, err = prepare(*settings, "--strict")
    assert status == 2 and f"error: {tmp_path}/a.jsonl:1: kind: 'pytest' instead of stdin, functional, assert" in err
    assert not (tmp_path / "prompts").exists()


def test_the_trial_data_against_real_benchmarks(prepare, tmp_path, shared_data):
    """Seven of MATH-500 and 124 repetitions, as read one by one in tests/unit/test_rl_prompts_clean.py."""
    names = {"aime24": "aime24", "aime25": "aime25", "math500": "math500"}
    names["livecodebench_v5"] = "livecodebench_v5_sample"
    files = [shared_data / "rl" / name for name in ("rl_math_prompts.jsonl", "rl_code_problems.jsonl")]
    status, out, err = prepare(
        "prompts=plain_code",
        f"prompts.source=[{','.join(map(str, files))}]",
        "prompts.templates.math='{problem}'",
        "prompts.count=500",
        f"run.folder={tmp_path}",
        f"benchmarks=[{','.join(names)}]",
        *(f"benchmarks.{name}.source={shared_data}/eval/{file}.jsonl" for name, file in names.items()),
    )
    assert status == 0, err
    assert "left out: assertions on TreeNode or ListNode" in out and "500 prompts drawn of 3,484" in out
    found = json.loads((tmp_path / "prompts" / "report.json").read_text())["cleaning"]["found"]
    assert found == {"aime24": 0, "aime25": 0, "math500": 7, "livecodebench_v5": 0}
    prompts, _ = load_prompts(tmp_path / "prompts")
    code = [prompt for prompt in prompts if prompt.answer == "code"]
    assert len(prompts) == 500 and 5 <= len(code) <= 50
    assert all("```python" in prompt.prompt and prompt.gold["tests"] for prompt in code)
