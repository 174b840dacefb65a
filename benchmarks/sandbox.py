"""The sandbox: what an execution costs beside a plain interpreter, and whether known solutions are graded right.

    python -m benchmarks.sandbox [key=value ...]

Timed in turn in one process: an interpreter without a sandbox, one inside it, and a whole graded solution; then as many
of each as there are slots. With `data`, every known solution is graded (benchmarks/solutions.py), and mutants of the
reference solutions. Exits with 1 where a mutant that no test should miss passes.
"""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.settings import run
from benchmarks.solutions import Solution, broken, load, mutants
from nemo_forking.config.evaluation import GradingConfig
from nemo_forking.config.fields import key
from nemo_forking.errors import UserError
from nemo_forking.rewards.code import CodeGrader
from nemo_forking.rewards.sandbox import Limits, Sandbox
from nemo_forking.rewards.sandbox.command import SYSTEM_PYTHON
from nemo_forking.rewards.verdict import Graded

PROGRAM = "print(sum(range(10)))"
BLOCK = {"kind": "stdin", "tests": [{"input": "3 4\n", "output": "7\n"}] * 3}
SOLUTION = "print(sum(map(int, input().split())))"


@dataclass(frozen=True)
class Settings:
    """What is measured; the defaults take about two minutes with data on two CPU cores."""

    data: str = key("folder with rl/ and eval/; empty: no solutions are graded", default="")
    slots: int = key("executions at once; 0 for one per CPU", default=0, at_least=0)
    repeats: int = key("timed executions of each way; the median counts", default=40, at_least=1)
    mutants: int = key("single changes tried of every reference solution", default=4, at_least=0)
    memory_mib: int = key("memory of one execution", default=1024, at_least=64)
    seconds: float = key("wall-clock and CPU limit of one test", default=6.0, above=0)


def measure(settings: Settings) -> dict[str, Any]:
    """The record that is printed. Raises UserError where the sandbox does not hold on this machine."""
    s = settings
    limits = Limits(memory_mib=s.memory_mib)
    with Sandbox(limits, s.slots) as sandbox, CodeGrader(grading(s)) as grader:
        plain = [SYSTEM_PYTHON, "-s", "-B", "-c", PROGRAM]
        calls: dict[str, Callable[[], Any]] = {
            "plain": lambda: subprocess.run(plain, capture_output=True, check=True),
            "sandbox": lambda: sandbox.run(PROGRAM),
            "graded": lambda: grader.run(SOLUTION, BLOCK),
        }
        if (check := grader.run(SOLUTION, BLOCK)).verdict != "correct":
            raise UserError(f"the sandbox does not run the benchmark's own solution: {check.note}")
        times: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(s.repeats):
            for name, call in calls.items():  # in turn, so that a busy moment meets them all
                started = time.perf_counter()
                call()
                times[name].append(time.perf_counter() - started)
        slots = len(sandbox.slots)
        rates = {name: rate(call, slots, s.repeats * slots) for name, call in calls.items()}
        medians = {name: statistics.median(seconds) for name, seconds in times.items()}
        record = {
            "benchmark": "sandbox",
            "level": sandbox.level.describe(),
            "cpus": len(os.sched_getaffinity(0)),
            "load": os.getloadavg()[0],
            "slots": slots,
            "settings": asdict(s),
            "milliseconds": {name: 1000 * median for name, median in medians.items()},
            "ratio_to_plain": {name: medians[name] / medians["plain"] for name in ("sandbox", "graded")},
            "per_second": rates,
            "per_minute": {name: 60 * value for name, value in rates.items()},
            "tests_per_minute": 60 * rates["graded"] * len(BLOCK["tests"]),
        }
        return record | (grade_all(grader, slots, settings) if s.data else {})


def grading(settings: Settings) -> GradingConfig:
    """The grader's configuration."""
    return GradingConfig(
        workers=settings.slots,
        math_seconds=1.0,
        code_seconds=settings.seconds,
        code_memory_mib=settings.memory_mib,
    )


def rate(call: Callable[[], Any], slots: int, count: int) -> float:
    """Calls a second with every slot busy."""
    with ThreadPoolExecutor(slots) as threads:
        started = time.perf_counter()
        for done in [threads.submit(call) for _ in range(count)]:
            done.result()
        return count / (time.perf_counter() - started)


def grade_all(grader: CodeGrader, slots: int, settings: Settings) -> dict[str, Any]:
    """Known solutions passed, each failure with its note, and mutants caught."""
    folder = Path(settings.data)
    if not folder.is_dir():
        raise UserError(f"data={settings.data} is no folder")
    sets = load(folder)
    with ThreadPoolExecutor(slots) as threads:

        def graded(pairs: list[tuple[str, Solution]]) -> list[Graded]:
            return list(threads.map(lambda pair: grader.run(pair[0], pair[1].block), pairs))

        passed, failures = {}, {}
        for name, solutions in sets.items():
            found = graded([(solution.source, solution) for solution in solutions])
            passed[name] = [sum(one.verdict == "correct" for one in found), len(found)]
            failures |= {
                solution.id: f"{one.verdict}: {one.note}"
                for solution, one in zip(solutions, found, strict=True)
                if one.verdict != "correct"
            }
        references = sets["references"]
        sure = graded([(broken(solution), solution) for solution in references])
        some = [(m, solution) for solution in references for m in list(mutants(solution.source))[: settings.mutants]]
        subtle = graded(some)
    return {
        "passed": passed,
        "failures": failures,
        "broken_caught": [sum(one.verdict != "correct" for one in sure), len(sure)],
        "broken_missed": [s.id for s, one in zip(references, sure, strict=True) if one.verdict == "correct"],
        "mutants_caught": [sum(one.verdict != "correct" for one in subtle), len(subtle)],
    }


def show(record: dict[str, Any]) -> None:
    """The record for people."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{record['cpus']} CPUs (load {record['load']:.1f}), {record['slots']} slots; {record['level']}")
    table = Table("way", "median ms", "of plain", "a second, all slots", "a minute")
    for name, milliseconds in record["milliseconds"].items():
        ratio = record["ratio_to_plain"].get(name, 1.0)
        table.add_row(
            name,
            f"{milliseconds:.1f}",
            f"{ratio:.2f}x",
            f"{record['per_second'][name]:.1f}",
            f"{record['per_minute'][name]:,.0f}",
        )
    console.print(table)
    for name, (good, total) in record.get("passed", {}).items():
        console.print(f"{name}: {good} of {total} known solutions pass their tests")
    for name, note in record.get("failures", {}).items():
        console.print(f"  {name}: {note}")
    if "broken_caught" in record:
        console.print(
            f"mutants that no test should miss: {record['broken_caught']}, subtle: {record['mutants_caught']}"
        )


def missed(record: dict[str, Any]) -> str | None:
    """What is wrong when a mutant that every test should catch passed."""
    passed = record.get("broken_missed")
    return f"mutants passed: {', '.join(passed)}" if passed else None


def main(words: Sequence[str]) -> int:
    """Run, print the table and, last, the JSON line; the exit status."""
    return run(__doc__, Settings, words, measure=measure, show=show, problem=missed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
