"""RL prompts: rows of DAPO-Math and of plain columns, every error with its place, rows that are left out or skipped."""

import json
from pathlib import Path

import pytest

from nemo_forking.errors import UserError
from nemo_forking.evaluation.benchmarks.sources import Source, locate
from nemo_forking.rewards.code import check_block
from nemo_forking.rl.prompts import read_prompts
from tests.unit.benchmark_files import declare, write
from tests.unit.rl_rows import AFTER, BEFORE, TEMPLATES, dapo, one, read, refused

# ---------------------------------------------------------------- DAPO-Math


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet", "a.jsonl.gz"])
def test_a_row_of_dapo_math_loses_its_instruction(tmp_path, name):
    prompt = one(tmp_path, "dapo", dapo(), name=name)
    assert (prompt.id, prompt.text, prompt.gold, prompt.answer) == ("u1", "What is $1+1$?", "2", "math")
    assert (prompt.prompt, prompt.kind) == ("Solve: What is $1+1$?", "math_dapo")


def test_a_question_without_the_instruction_and_a_number_as_gold_are_taken_as_they_are(tmp_path):
    row = dapo(prompt=[{"content": "What\n\nis it?", "role": "user"}], reward_model={"ground_truth": 34})
    prompt = one(tmp_path, "dapo", row)
    assert (prompt.text, prompt.gold) == ("What\n\nis it?", "34")


def test_rows_that_repeat_an_earlier_one_are_counted(tmp_path):
    reading = read(tmp_path, "dapo", dapo(), dapo("u2", "What is $2+2$?", "4"), dapo(), dapo())
    assert [prompt.id for prompt in reading.prompts] == ["u1", "u2"]
    assert (reading.rows, reading.repeated) == (4, 2)


def test_an_id_of_two_questions_is_an_error(tmp_path):
    said = refused(tmp_path, "dapo", dapo(), dapo(gold="3"))
    assert said.startswith("a.jsonl:2: id: 'u1' was used before for another question, at a.jsonl:1")


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"prompt": "text"}, "prompt: text instead of a list"),
        ({"prompt": []}, "prompt: 0 messages instead of one"),
        ({"prompt": ["text"]}, "prompt[0]: the text is not JSON"),
        ({"prompt": [{"role": "system", "content": "x"}]}, "prompt[0].role: 'system' instead of 'user'"),
        ({"prompt": [{"role": "user"}]}, "prompt[0].content: null instead of text"),
        ({"prompt": [{"role": "user", "content": BEFORE + "cut sh"}]}, "prompt[0].content: the instruction around"),
        ({"prompt": [{"role": "user", "content": BEFORE + AFTER}]}, "prompt[0].content: there is no question"),
        ({"reward_model": {"style": "rule"}}, "reward_model.ground_truth: null instead of text or a whole number"),
        ({"reward_model": 3}, "reward_model: a number instead of an object"),
        ({"extra_info": {"index": " "}}, "extra_info.index: the text is empty"),
    ],
)
def test_a_malformed_row_of_dapo_math_names_its_field(tmp_path, changes, said):
    assert refused(tmp_path, "dapo", dapo("u0"), dapo(**changes)).startswith(f"a.jsonl:2: {said}")


def test_a_missing_column_is_named_with_what_was_expected(tmp_path):
    row = dapo()
    row["reward_modell"] = row.pop("reward_model")
    assert "reward_model: there is no such column (is 'reward_modell' meant?)" in refused(tmp_path, "dapo", row)


# ---------------------------------------------------------------- plain columns

STARTER = "class Solution:\n    def double(self, n: int) -> int:\n        "


def plain(kind="stdin", **changes) -> dict:
    return {"id": "c1", "kind": kind, "problem": "Double it.", "tests": [{"input": "1", "output": "2"}]} | changes


def test_plain_math_rows_take_their_source_as_kind(tmp_path):
    row = {"id": "m1", "problem": "What is 1+1?", "answer": "2", "source": "MATH train", "difficulty": 1.0}
    prompt = one(tmp_path, "plain", row)
    assert (prompt.prompt, prompt.gold, prompt.kind, prompt.answer) == (
        "Solve: What is 1+1?",
        "2",
        "MATH train",
        "math",
    )


def test_plain_code_rows_of_stdin_and_functions(tmp_path):
    assert one(tmp_path, "plain", plain(starter_code="")).gold["kind"] == "stdin"
    assert one(tmp_path, "plain", plain("functional", starter_code=STARTER)).gold["kind"] == "functional"


def test_assertions_keep_their_source_and_the_starter_code_fenced_in_the_problem(tmp_path):
    tests = "assert Solution().double(1) == 2\n"
    problem = f"Double it.\nComplete this code:\n```python\n{STARTER.rstrip()}\n```"
    prompt = one(tmp_path, "plain", plain("assert", tests=tests, problem=problem))
    assert prompt.gold["kind"] == "assert" and prompt.gold["tests"] == tests
    assert prompt.text == "Double it.\nComplete this code:"
    assert prompt.prompt.endswith("Complete:\n" + STARTER.rstrip())
    check_block(prompt.gold, "gold")


def test_assertions_on_classes_that_nobody_defines_are_left_out(tmp_path):
    tests = "assert Solution().depth(tree_node([1])) == 1\n"
    helper = "class TreeNode: ...\ndef tree_node(values): ...\n"
    rows = [
        plain("assert", id=str(n), tests=text, starter_code=STARTER) for n, text in enumerate([tests, helper + tests])
    ]
    reading = read(tmp_path, "plain", *rows)
    assert [prompt.id for prompt in reading.prompts] == ["1"]
    assert reading.left_out == {"assertions on TreeNode or ListNode": 1}


@pytest.mark.parametrize(
    "row, said",
    [
        (plain("pytest"), "kind: 'pytest' instead of stdin, functional, assert"),
        (plain("functional"), "kind: 'functional', but the tests are stdin (functional ones need starter_code)"),
        (plain("assert"), "tests: a list instead of the source of assertions"),
        (plain("assert", tests="assert f()"), "starter_code: neither there nor fenced at the end of problem"),
        (plain(tests=[]), "tests: an empty list"),
        ({"id": "c1", "kind": "stdin", "problem": "x"}, "tests: there is no such column"),
        ({"id": "m1", "problem": "x"}, "answer: there is no such column"),
    ],
)
def test_a_malformed_plain_row_names_its_field(tmp_path, row, said):
    first = {"id": "m0", "problem": "x", "answer": "1"}
    assert refused(tmp_path, "plain", first, row).startswith(f"a.jsonl:2: {said}")


# ---------------------------------------------------------------- reading


def test_malformed_rows_are_skipped_and_counted_where_reading_is_not_strict(tmp_path):
    rows = [dapo(), dapo("u2", gold=None), dapo(gold="3"), dapo("u4", prompt=[])] + [dapo("u5", gold="")] * 3
    reading = read(tmp_path, "dapo", *rows, strict=False)
    assert [prompt.id for prompt in reading.prompts] == ["u1"]
    assert reading.skipped == {"reward_model.ground_truth": 4, "id": 1, "prompt": 1}
    assert len(reading.examples) == 3 and reading.examples[0].startswith("a.jsonl:2: reward_model.ground_truth: null")
    assert json.loads(json.dumps(reading.summary()))["skipped"]["prompt"] == 1


def test_a_damaged_file_is_an_error_even_where_reading_is_not_strict(tmp_path):
    path = write(tmp_path / "a.jsonl", [dapo()])
    path.write_text(path.read_text() + '{"prompt": [')
    with pytest.raises(UserError, match=r"a.jsonl:2: not JSON.*cut short"):
        read_prompts(Source((path,), ("a.jsonl",)), "dapo", TEMPLATES, strict=False)


def test_nothing_left_an_unknown_shape_and_no_template_are_errors(tmp_path):
    assert "no prompt is left" in refused(tmp_path, "dapo", dapo(), templates={"code": TEMPLATES["code"]})
    said = "prompts.shape: 's1k' is no shape of RL data; choose one of dapo, intellect, plain"
    assert said in refused(tmp_path, "s1k", dapo())
    assert "templates must be given" in refused(tmp_path, "dapo", dapo(), templates={})
    assert "templates must be given" in refused(tmp_path, "dapo", dapo(), templates={"choice": TEMPLATES["math"]})


def test_files_are_found_as_a_benchmarks_are(tmp_path):
    write(tmp_path / "set" / "train-00000-of-00002.parquet", [dapo()])
    write(tmp_path / "set" / "train-00001-of-00002.parquet", [dapo("u2")])
    reading = read_prompts(locate("prompts", declare(tmp_path / "set", split="train")), "dapo", TEMPLATES)
    assert [prompt.id for prompt in reading.prompts] == ["u1", "u2"]


def test_the_trial_data_is_read_whole_and_every_test_block_is_one_the_grader_takes(shared_data):
    files = [Path(shared_data) / "rl" / name for name in ("rl_math_prompts.jsonl", "rl_code_problems.jsonl")]
    reading = read_prompts(Source(tuple(files), ("math", "code")), "plain", TEMPLATES)
    assert reading.rows == len(reading.prompts) + reading.left_out.total() >= 3471 + 100
    assert reading.left_out == {"assertions on TreeNode or ListNode": 6} and not reading.repeated
    programs = [prompt for prompt in reading.prompts if prompt.answer == "code"]
    assert {prompt.kind for prompt in programs} == {"stdin", "functional", "assert"}
    for prompt in programs:
        check_block(prompt.gold, prompt.id)
        assert "solve the problem and return the code" not in prompt.prompt
