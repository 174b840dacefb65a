"""Adds verdicts to a measurement's samples; those of other samples or of another grader are made anew."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

from nemo_forking.engines.progress import track
from nemo_forking.evaluation.folder import GRADING, SAMPLES, VERDICTS, Growing, key_of, load_lines
from nemo_forking.files import file_hash, write_aside
from nemo_forking.rewards import Grader, Item
from nemo_forking.storage import storing


def grade_samples(
    open_grader: Callable[[], Grader],
    gold: Mapping[str, object],
    folder: Path,
    *,
    route: Callable[[str], str | None] | None = None,
    progress: str | None = None,
) -> list[dict]:
    """A verdict for every sample of a measurement's folder; those already there are kept.

    Args:
        open_grader: gives the grader; called once, since what it is decides whether old verdicts stand.
        gold: question id -> what the grader compares with.
        folder: the measurement's folder.
        route: finds the route a completion takes, where the task has routes.
        progress: the progress bar's label; None shows no bar.

    Raises:
        UserError: the samples are missing or damaged, or the grader cannot work on this machine.
    """
    samples = {key_of(line): line for line in load_lines(folder / SAMPLES)}
    path = folder / VERDICTS
    with open_grader() as grader:
        _forget_others(
            folder, {"grader": grader.describe(), "samples": file_hash(folder / SAMPLES), "gold": _hash(gold)}
        )
        if path.exists():
            return load_lines(path)
        with storing(folder), Growing(path) as growing:
            todo = {str(number): key for number, key in enumerate(samples) if key not in growing.lines}
            items = [Item(number, samples[key]["text"], gold[key[0]], key[0]) for number, key in todo.items()]
            for number, graded in track(grader.stream(items), len(items), progress):
                question, slot, round_ = key = todo[number]
                found = {"verdict": graded.verdict, "answer": graded.answer, "note": graded.note}
                found["route"] = route(samples[key]["text"]) if route else None
                growing.add({"question": question, "slot": slot, "round": round_, **found})
            return growing.finish(list(samples))


def _forget_others(folder: Path, record: dict) -> None:
    """Removes verdicts that another grader gave, or that belong to other samples."""
    record = json.loads(json.dumps(record))
    try:
        found = json.loads((folder / GRADING).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if _deciding(found) != _deciding(record):
        for file in folder.glob(f"{VERDICTS}*"):
            file.unlink()
        write_aside(folder / GRADING, json.dumps(record, indent=1) + "\n")


def _deciding(record: dict | None) -> dict | None:
    """What verdicts depend on: not the machine whose sandbox it was, which holds or is not used at all."""
    if record is None:
        return None
    return record | {"grader": {name: value for name, value in record["grader"].items() if name != "sandbox"}}


def _hash(gold: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(sorted(gold.items())).encode()).hexdigest()
