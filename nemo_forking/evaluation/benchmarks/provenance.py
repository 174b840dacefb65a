"""What must be known about a benchmark to repeat or compare a result."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nemo_forking.checksums import file_facts
from nemo_forking.evaluation.benchmarks.choice import ORDER_RULE
from nemo_forking.evaluation.benchmarks.problem import Problem
from nemo_forking.evaluation.benchmarks.prompt import template_hash
from nemo_forking.evaluation.benchmarks.sources import Source, locate

if TYPE_CHECKING:
    from nemo_forking.config.schema import BenchmarkConfig

LOADER = 1  # raised when the same files and template give other problems
# questions of the whole benchmark; fewer are a sample, and are reported as one
EXPECTED = {"aime24": 30, "aime25": 30, "math500": 500, "gpqa_diamond": 198, "livecodebench_v5": 167}


def describe(name: str, benchmark: BenchmarkConfig, problems: Sequence[Problem]) -> dict[str, Any]:
    """The origin of a benchmark's problems, JSON-able.

    Args:
        name: the benchmark's.
        benchmark: its declaration.
        problems: what `load_problems` gave.

    Returns:
        source, commit and revision (None for local files), subset, split, window (None or two dates), files (name,
        bytes, sha256), questions, expected (None where the benchmark has no known size), complete (None likewise),
        questions_sha256 (over ids, prompts and golds), kinds (questions of each), prompt, prompt_sha256, answer,
        choice_order (None but for choice) and loader.
    """
    source = locate(f"benchmarks.{name}", benchmark)
    window = [benchmark.from_date, benchmark.to_date]
    is_file = source.names == (benchmark.source,)  # a single local file, of which nothing is chosen
    expected = EXPECTED.get(name)
    return {
        "source": benchmark.source,
        "commit": source.commit,
        "revision": benchmark.revision if source.commit else None,
        "subset": None if is_file else benchmark.subset,
        "split": None if is_file else benchmark.split,
        "window": window if any(window) else None,
        "files": describe_files(source),
        "questions": len(problems),
        "expected": expected,
        "complete": None if expected is None else len(problems) == expected,
        "questions_sha256": _problems_hash(problems),
        "kinds": _kinds(problems),
        "prompt": benchmark.prompt,
        "prompt_sha256": template_hash(benchmark.prompt),
        "answer": benchmark.answer,
        "choice_order": ORDER_RULE if benchmark.answer == "choice" else None,
        "loader": LOADER,
    }


def describe_files(source: Source) -> list[dict[str, Any]]:
    """Name, bytes and sha256 of every file."""
    return [{"name": shown, **file_facts(path)} for path, shown in zip(source.files, source.names, strict=True)]


def _kinds(problems: Sequence[Problem]) -> dict[str, int]:
    kinds = sorted({problem.kind for problem in problems} - {""})
    return {kind: sum(problem.kind == kind for problem in problems) for kind in kinds}


def _problems_hash(problems: Sequence[Problem]) -> str:
    total = hashlib.sha256()
    for problem in problems:
        total.update(json.dumps([problem.id, problem.prompt, problem.gold], ensure_ascii=False).encode() + b"\n")
    return total.hexdigest()
