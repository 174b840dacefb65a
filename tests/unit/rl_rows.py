"""Rows of RL data sets for the tests, and how they are read."""

import json

import pytest

from nemo_forking.errors import UserError
from nemo_forking.evaluation.benchmarks.prompt import PromptTemplate
from nemo_forking.evaluation.benchmarks.sources import Source
from nemo_forking.rl.prompts import read_prompts
from tests.unit.benchmark_files import PROMPTS, write

TEMPLATES = {
    answer: PromptTemplate(PROMPTS[answer], answer, f"prompts.templates.{answer}") for answer in ("math", "code")
}
BEFORE = "Solve the following math problem step by step. The last line is of the form Answer: $Answer.\n\n"
AFTER = '\n\nRemember to put your answer on its own line after "Answer:".'


def dapo(id="u1", question="What is $1+1$?", gold="2", **changes) -> dict:
    return {
        "data_source": "math_dapo",
        "prompt": [{"content": BEFORE + question + AFTER, "role": "user"}],
        "ability": "MATH",
        "reward_model": {"ground_truth": gold, "style": "rule-lighteval/MATH_v2"},
        "extra_info": {"index": id},
    } | changes


def intellect(id="p1", task="verifiable_math", prompt="What is $1+1$?", check=None, **changes) -> dict:
    check = {"ground_truth": "2"} if check is None else check
    row = {"problem_id": id, "task_type": task, "prompt": prompt, "verification_info": json.dumps(check)}
    return row | {"metadata": "{}"} | changes


def program(tests, prompt="Double it.", **changes) -> dict:
    return intellect(task="verifiable_code", prompt=prompt, check={"test_cases": tests} | changes)


def stdin(given="1", wanted="2", **changes) -> dict:
    return {"type": "stdin_stdout", "input": given, "output": wanted} | changes


def call(given, wanted, name="double", **changes) -> dict:
    return {"type": "function_call", "fn_name": name, "input": given, "output": wanted} | changes


def read(tmp_path, shape, *rows, name="a.jsonl", templates=TEMPLATES, **options):
    path = write(tmp_path / name, rows)
    return read_prompts(Source((path,), (name,)), shape, templates, **options)


def one(tmp_path, shape, row, **options):
    (prompt,) = read(tmp_path, shape, row, **options).prompts
    return prompt


def refused(tmp_path, shape, *rows, **options) -> str:
    with pytest.raises(UserError) as error:
        read(tmp_path, shape, *rows, **options)
    return str(error.value)
