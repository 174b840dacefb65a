"""The math grader against verdicts recorded in other people's runs: agreement, every disagreement, answers per second.

    python -m benchmarks.grader --data FOLDER [key=value ...]

FOLDER has verify/gold_pred_verdict.jsonl, extracted answers with the verdict of the Qwen2.5-Math grader, which is no
human's; and, where there, traces/multi_trace.jsonl, whole completions. Disagreements on the first file were judged by
hand (benchmarks/grader_judged.jsonl). Exits with 1 where one is not judged, or where the recording is right.
"""

import hashlib
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.settings import run
from nemo_forking.config.evaluation import GradingConfig
from nemo_forking.config.fields import key
from nemo_forking.errors import UserError
from nemo_forking.rewards import VERDICTS, Graded, Item
from nemo_forking.rewards.boxes import last_box
from nemo_forking.rewards.math import MathGrader

JUDGED = Path(__file__).with_name("grader_judged.jsonl")
OTHER_FORMS = ("lineage-", "math-l5-")  # questions that ask for an <ANSWER> element, or for JSON: no boxes


@dataclass(frozen=True)
class Settings:
    """What is graded."""

    data: str = key("folder with verify/, and traces/ for whole completions", default="")
    workers: int = key("processes; 0 for one per CPU", default=0, at_least=0)
    seconds: float = key("deadline of one answer", default=10.0, above=0)


def measure(settings: Settings) -> dict[str, Any]:
    """The record that is printed. Raises UserError where the recorded verdicts are missing."""
    folder = Path(settings.data)
    grading = GradingConfig(settings.workers, settings.seconds, code_seconds=1.0, code_memory_mib=64)
    with MathGrader(grading) as grader:
        grader.workers.warm()  # importing SymPy is not grading
        record = {
            "benchmark": "grader",
            "settings": asdict(settings),
            **grader.describe(),
            "workers": grader.workers.count,
            "answers": grade_answers(grader, read(folder / "verify" / "gold_pred_verdict.jsonl")),
        }
        traces = folder / "traces" / "multi_trace.jsonl"
        if traces.exists():
            record["completions"] = grade_completions(grader, read(traces))
    return record


def read(path: Path) -> list[dict]:
    """The lines of a file. Raises UserError where it is missing."""
    if not path.is_file():
        raise UserError(f"no {path}: --data names the folder that holds it")
    return [json.loads(line) for line in path.read_text().splitlines()]


def grade_answers(grader: MathGrader, rows: list[dict]) -> dict[str, Any]:
    """Agreement on answers that were extracted already, and every disagreement with who is right."""
    items = [Item(str(n), f"\\boxed{{{row['prediction']}}}", row["gold"]) for n, row in enumerate(rows)]
    graded, seconds = timed(grader, items)
    judged = {line["key"]: line for line in map(json.loads, JUDGED.read_text().splitlines())}
    disagreements, ours, recorded, truth = [], [], [], []
    for item, row in zip(items, rows, strict=True):
        correct = graded[item.id].verdict == "correct"
        judgement = {"right": "agreed"}
        if correct != row["expected"]:
            judgement = judged.get(digest(row), {"right": "nobody has judged", "why": ""})
            shown = {"gold": row["gold"], "answer": row["prediction"][:60], "recorded": row["expected"]}
            disagreements.append(shown | {"ours": graded[item.id].verdict} | judgement)
        ours.append(correct)
        recorded.append(row["expected"])
        truth.append(correct if judgement["right"] == "ours" else row["expected"])
    return {
        "n": len(rows),
        "agreement": sum(a == b for a, b in zip(ours, recorded, strict=True)) / len(rows),
        "verdicts": dict(Counter(result.verdict for result in graded.values())),
        "seconds": seconds,
        "per_second": len(rows) / seconds,
        "against_recorded": precision_recall(ours, recorded),
        "against_judged": precision_recall(ours, truth),
        "recorded_against_judged": precision_recall(recorded, truth),
        "right": dict(Counter(line["right"] for line in disagreements)),
        "disagreements": disagreements,
    }


def digest(row: dict) -> str:
    """The key of a judgement."""
    return hashlib.sha256(f"{row['gold']}\0{row['prediction']}".encode()).hexdigest()[:16]


def precision_recall(said: Sequence[bool], true: Sequence[bool]) -> dict[str, float]:
    """Of `correct` as the positive verdict."""
    both = sum(a and b for a, b in zip(said, true, strict=True))
    return {"precision": both / max(sum(said), 1), "recall": both / max(sum(true), 1)}


def grade_completions(grader: MathGrader, rows: list[dict]) -> dict[str, Any]:
    """Throughput on whole completions, and agreement where their source kept a verdict."""
    rows = [row for row in rows if row["answer_type"] in ("integer", "latex") and not row["id"].startswith(OTHER_FORMS)]
    traces = {f"{row['id']}/{n}": (row, trace) for row in rows for n, trace in enumerate(row["traces"])}
    items = [Item(name, trace["text"], row["answer"]) for name, (row, trace) in traces.items()]
    graded, seconds = timed(grader, items)
    known = {name: trace for name, (_, trace) in traces.items() if trace.get("correct") is not None}
    boxed = {name for name, trace in known.items() if last_box(trace["text"]) is not None}
    agree = {name for name, trace in known.items() if trace["correct"] == (graded[name].verdict == "correct")}
    return {
        "n": len(items),
        "megabytes": sum(len(item.completion) for item in items) / 1e6,
        "seconds": seconds,
        "per_second": len(items) / seconds,
        "verdicts": dict(Counter(result.verdict for result in graded.values())),
        "recorded": len(known),
        "agreement": len(agree) / max(len(known), 1),
        "boxed": len(boxed),
        "agreement_boxed": len(agree & boxed) / max(len(boxed), 1),
        "disagreements": [
            {
                "id": name,
                "teacher": traces[name][1]["teacher"],
                "gold": traces[name][0]["answer"],
                "answer": graded[name].answer,
                "recorded": known[name]["correct"],
                "ours": graded[name].verdict,
                "boxed": name in boxed,
            }
            for name in known
            if name not in agree
        ],
    }


def timed(grader: MathGrader, items: list[Item]) -> tuple[dict[str, Graded], float]:
    """What became of all items, and the seconds it took."""
    start = time.perf_counter()
    graded = dict(grader.stream(items))
    return graded, time.perf_counter() - start


def show(record: dict[str, Any]) -> None:
    """The record for people."""
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True, markup=False)
    answers = record["answers"]
    console.print(
        f"{answers['n']} extracted answers: {answers['agreement']:.1%} as recorded; "
        f"{answers['per_second']:,.0f} answers a second in {record['workers']} workers"
    )
    for line in answers["disagreements"]:
        console.print(
            f"  gold {line['gold']}, answer {line['answer'] or '(none)'}: recorded {says(line['recorded'])}, "
            f"ours {line['ours']}; right: {line['right']}, {line['why']}"
        )
    for name, label in (
        ("against_recorded", "ours against the recorded verdicts"),
        ("against_judged", "ours against the judged ones"),
        ("recorded_against_judged", "the recorded against the judged ones"),
    ):
        console.print(f"{label}: precision {answers[name]['precision']:.4f}, recall {answers[name]['recall']:.4f}")
    if completions := record.get("completions"):
        counts = ", ".join(f"{completions['verdicts'].get(verdict, 0)} {verdict}" for verdict in VERDICTS)
        console.print(
            f"{completions['n']} whole completions ({completions['megabytes']:.1f} MB): {counts}; "
            f"{completions['per_second']:,.0f} a second"
        )
        console.print(
            f"{completions['agreement']:.1%} of {completions['recorded']} as recorded, "
            f"{completions['agreement_boxed']:.1%} of the {completions['boxed']} with a box"
        )
        for line in completions["disagreements"]:
            console.print(
                f"  {line['id']} {line['teacher']}{'' if line['boxed'] else ' (no box)'}: gold {line['gold']}, "
                f"recorded {says(line['recorded'])}, ours {line['ours']}: {line['answer']}"
            )


def says(correct: bool) -> str:
    """A recorded verdict in the grader's words."""
    return "correct" if correct else "wrong"


def against(record: dict[str, Any]) -> str | None:
    """What is wrong when a disagreement is our fault, or may be."""
    count = sum(count for right, count in record["answers"]["right"].items() if right not in ("ours", "arguable"))
    return f"in {count} disagreements the recording is right, or nobody has judged" if count else None


def main(words: Sequence[str]) -> int:
    """Run, print the tables and, last, the JSON line; the exit status."""
    if list(words[:1]) == ["--data"]:
        words = [f"data={''.join(words[1:2])}", *words[2:]]
    return run(__doc__, Settings, words, measure=measure, show=show, problem=against)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
