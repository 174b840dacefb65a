"""Grading code: real solutions pass the tests they come with, and mutants of them fail."""

import pytest

from benchmarks import solutions as known
from nemo_forking.config.evaluation import GradingConfig
from nemo_forking.errors import UserError
from nemo_forking.rewards.code import CodeGrader
from nemo_forking.rewards.verdict import Graded, Item
from tests.unit.sandboxes import missing

CORRECT = Graded("correct", None)


@pytest.fixture(scope="module")
def solutions(shared_data):
    return known.load(shared_data)


@pytest.fixture(scope="module")
def patient(solutions):
    grading = GradingConfig(workers=2, math_seconds=1.0, code_seconds=20.0, code_memory_mib=1024)  # a busy machine
    try:
        with CodeGrader(grading) as opened:
            yield opened
    except UserError as error:
        missing(error)


def verdicts(grader, sources):
    items = [Item(str(place), f"```python\n{source}\n```", block) for place, (source, block) in enumerate(sources)]
    found = dict(grader.stream(items))
    return [found[item.id] for item in items]


def test_every_reference_solution_passes_its_own_tests(patient, solutions):
    references = solutions["references"]
    found = verdicts(patient, [(solution.source, solution.block) for solution in references])
    assert {s.id: one for s, one in zip(references, found, strict=True) if one != CORRECT} == {}
    assert len(references) >= 54


def test_every_broken_reference_solution_fails(patient, solutions):
    references = solutions["references"]
    found = verdicts(patient, [(known.broken(solution), solution.block) for solution in references])
    assert [s.id for s, one in zip(references, found, strict=True) if one.verdict == "correct"] == []


def test_single_changes_of_reference_solutions_are_mostly_caught(patient, solutions):
    short = [s for s in solutions["references"] if s.block["kind"] == "assert"][:12]
    pairs = [(mutant, s.block | {"time_limit_s": 2.0}) for s in short for mutant in list(known.mutants(s.source))[:2]]
    caught = [one.verdict != "correct" for one in verdicts(patient, pairs)]
    assert sum(caught) >= 0.7 * len(caught)  # the rest are equivalent, or two or three examples do not tell


def test_all_canonical_solutions_of_humaneval_pass(patient, solutions):
    found = verdicts(patient, [(solution.source, solution.block) for solution in solutions["humaneval"]])
    assert sum(one == CORRECT for one in found) == 164


def test_canonical_solutions_of_mbpp_pass(patient, solutions):
    """A quarter of them; benchmarks.sandbox runs all. The tests of 367 use trees that the file does not define."""
    some = [solution for solution in solutions["mbpp"][::4] if solution.id != "mbpp/367"]
    found = verdicts(patient, [(solution.source, solution.block) for solution in some])
    assert {s.id: one for s, one in zip(some, found, strict=True) if one != CORRECT} == {}
