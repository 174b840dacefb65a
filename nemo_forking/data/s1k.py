"""Rows of s1K and s1K-1.1 in the native schema.

s1K: `question`, `solution`, `attempt`, `thinking_trajectories` (a list; teachers are not named, so they become
``trajectory-1``, ``trajectory-2`` ..). s1K-1.1 and files widened like it: for every teacher a column
``<teacher>_thinking_trajectory``, and beside it ``<teacher>_attempt`` (the answer text given after thinking) and
``<teacher>_grade`` ("Yes" or "No"). The question's answer is the column `answer` if there is one, else `solution`. Rows
without an `id` are named by a hash of the question, so that the same question twice is found as a repeated id.
"""

from __future__ import annotations

import hashlib

SUFFIX = "_thinking_trajectory"
GRADES = {"yes": True, "no": False}


def to_native(row: dict) -> tuple[dict, dict[str, str]]:
    """Return the row in the native schema, and for every renamed field its name in the source.

    Values are moved, not checked; the checks of the native schema follow.
    """
    names: dict[str, str] = {}
    traces: list = []

    def add(teacher: object, text: object, source: str, answer: object, correct: object) -> None:
        names[f"traces[{len(traces)}].text"] = source
        traces.append({"teacher": teacher, "text": text, "answer": answer or None, "correct": correct})

    trajectories = row.get("thinking_trajectories")
    if isinstance(trajectories, list):
        for index, text in enumerate(trajectories):
            add(f"trajectory-{index + 1}", text, f"thinking_trajectories[{index}]", row.get("attempt"), None)
    elif trajectories is not None:
        add("trajectory-1", trajectories, "thinking_trajectories", row.get("attempt"), None)
    for column in row:
        if column.endswith(SUFFIX) and row[column] is not None:
            teacher = column.removesuffix(SUFFIX)
            correct = GRADES.get(str(row.get(f"{teacher}_grade")).strip().lower())
            add(teacher, row[column], column, row.get(f"{teacher}_attempt"), correct)

    native = {key: row[key] for key in ("id", "question", "answer") if row.get(key) is not None}
    if "answer" not in native and row.get("solution") is not None:
        native["answer"] = row["solution"]
        names["answer"] = "solution"
    if "id" not in native:
        native["id"] = "s1k-" + hashlib.sha256(str(row.get("question")).encode("utf-8", "replace")).hexdigest()[:16]
    if traces:
        native["traces"] = traces
    names["traces"] = f"thinking_trajectories or <teacher>{SUFFIX}"
    return native, names
