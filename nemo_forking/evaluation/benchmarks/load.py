"""From a declared benchmark to its problems."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nemo_forking.errors import UserError
from nemo_forking.evaluation.benchmarks.choice import choice_problem
from nemo_forking.evaluation.benchmarks.code import code_problem
from nemo_forking.evaluation.benchmarks.files import read_rows
from nemo_forking.evaluation.benchmarks.math import many_ways_problem, math_problem
from nemo_forking.evaluation.benchmarks.problem import Problem
from nemo_forking.evaluation.benchmarks.prompt import PromptTemplate
from nemo_forking.evaluation.benchmarks.sources import locate
from nemo_forking.evaluation.benchmarks.window import Window

if TYPE_CHECKING:
    from nemo_forking.config.schema import BenchmarkConfig

# kind of answer -> how a row becomes a problem
PROBLEM = {"math": math_problem, "many_ways": many_ways_problem, "choice": choice_problem, "code": code_problem}


def load_problems(name: str, benchmark: BenchmarkConfig) -> list[Problem]:
    """Read a benchmark, in the order of its source.

    Every row inside the window is checked, also those that `max_questions` leaves out.

    Args:
        name: the benchmark's, as in `benchmarks=[aime24]`.
        benchmark: its declaration.

    Raises:
        UserError: the source is missing, cut short or empty, a row has other columns or types than expected, or an id
            stands twice; the message names file, line, field and remedy.
    """
    template = PromptTemplate(benchmark.prompt, benchmark.answer, f"benchmarks.{name}.prompt")
    window = Window(name, benchmark)
    problems: list[Problem] = []
    first: dict[str, str] = {}  # id -> place
    source = locate(f"benchmarks.{name}", benchmark)
    for path, shown in zip(source.files, source.names, strict=True):
        for row in read_rows(path, shown):
            if not window.holds(row):
                continue
            problem = PROBLEM[benchmark.answer](row, template)
            if problem.id in first:
                raise row.error("id", f"{problem.id!r} was used before, at {first[problem.id]}; ids must differ")
            first[problem.id] = row.place
            problems.append(problem)
    if not problems:
        files = ", ".join(source.names)
        if window.seen:
            raise UserError(
                f"benchmarks.{name}: no question of {files} lies in the window {window}; "
                f"the dates are {min(window.seen)} to {max(window.seen)}"
            )
        raise UserError(
            f"benchmarks.{name}.source: {files} holds no questions; the file may be cut short, get it again"
        )
    return problems[: benchmark.max_questions]
