"""Rows of plain columns: {id, problem, answer}, or {id, problem, kind, tests, starter_code} with all kinds of tests.

The laptop task's rows, {id, question, answer}, look like those of math; the template given tells which is meant.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from nemo_forking.evaluation.benchmarks.code import PREFIX, code_problem
from nemo_forking.evaluation.benchmarks.math import many_ways_problem, math_problem
from nemo_forking.evaluation.benchmarks.prompt import PromptTemplate
from nemo_forking.evaluation.benchmarks.row import Row, kind_of
from nemo_forking.rewards.code import KINDS
from nemo_forking.rl.prompts.intellect import AROUND, as_prompt
from nemo_forking.rl.prompts.prompt import LeftOut, Prompt

CODE = ({"id": "id", "problem": "problem", "kind": "kind", "tests": "tests"},)
STARTER = re.compile(r"[^\n]*```python\n(.*?)\n?```\s*\Z", re.DOTALL)  # with the line before, which announces it

# classes of the site these tests come from, which neither problem nor tests define
NODES = re.compile(r"\b(?:Tree|List)Node\b|\b(?:tree|list)_node\b")


def plain_prompt(row: Row, templates: Mapping[str, PromptTemplate]) -> Prompt:
    """A math question, its kind the source; a code problem, its kind that of its tests; or a many_ways question.

    Raises:
        UserError: a column is missing or of another type, or tests are malformed.
        LeftOut: an answer without a template, or assertions on TreeNode or ListNode, which no solution could pass.
    """
    text = "many_ways" if "many_ways" in templates else "math"
    answer = "code" if "tests" in row.values or "kind" in row.values else text
    if answer not in templates:
        raise LeftOut(answer)
    if answer == "many_ways":
        return as_prompt(many_ways_problem(row, templates["many_ways"]), answer="many_ways")
    if answer == "math":
        problem = math_problem(row, templates["math"], "RL math")
        return as_prompt(problem, kind=problem.kind or row.optional("source").strip(), answer="math")
    return _code(row, templates["code"])


def _code(row: Row, template: PromptTemplate) -> Prompt:
    row.layout(CODE, "RL code")
    kind, text = row.text("kind"), row.text("problem")
    if kind not in KINDS:
        raise row.error("kind", f"{kind!r} instead of {', '.join(KINDS)}")
    for words in AROUND:
        text = words.sub("", text)
    if kind == "assert":
        return _asserted(row, text, template)
    problem = code_problem(Row(row.file, row.line, {**row.values, "problem": text}), template)
    if problem.gold["kind"] != kind:
        found = problem.gold["kind"]
        raise row.error("kind", f"{kind!r}, but the tests are {found} (functional ones need starter_code)")
    return as_prompt(problem, kind=kind, answer="code")


def _asserted(row: Row, text: str, template: PromptTemplate) -> Prompt:
    """Tests that are the source of assertions; asked like a functional problem, for the grader calls by name."""
    tests = row.values["tests"]
    if not isinstance(tests, str):
        raise row.error("tests", f"{kind_of(tests)} instead of the source of assertions")
    source = row.text("tests") + "\n"
    starter = row.optional("starter_code")
    if not starter.strip():
        found = STARTER.search(text)
        if not found:
            raise row.error("starter_code", "neither there nor fenced at the end of problem; assertions call its names")
        text, starter = text[: found.start()].strip(), found[1]
    if NODES.search(starter + source) and "class " not in source:
        raise LeftOut("assertions on TreeNode or ListNode")
    gold = {
        "kind": "assert",
        "tests": source,
        "function": None,
        "starter_code": starter,
        "prefix": PREFIX,
        "time_limit_s": None,
    }
    prompt = template.fill({"problem": text, "starter_code": starter.rstrip()}, "functional")
    return Prompt(row.text("id", integer=True), prompt, gold, text, "assert", "code")
