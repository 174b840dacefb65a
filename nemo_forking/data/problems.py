"""Problems found in the source files: what each kind means, and the report that collects them."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass
from typing import IO

from nemo_forking.errors import UserError

LINE, QUESTION, TRACE, KEPT = "line dropped", "question dropped", "trace dropped", "kept"

# kind -> (what happens when not strict, remedy); docs/data.md has the same table in words
KINDS: dict[str, tuple[str, str]] = {
    "bad_utf8": (LINE, "save the file as UTF-8"),
    "bad_json": (LINE, "write one complete JSON object on every line"),
    "not_an_object": (LINE, "write one complete JSON object on every line"),
    "missing_field": (LINE, "add the field"),
    "empty_field": (LINE, "fill the field in, or remove the row"),
    "wrong_type": (LINE, "write the value with the JSON type named here"),
    "bad_unicode": (LINE, "remove the unpaired surrogate escape (\\ud800 to \\udfff)"),
    "unknown_field": (KEPT, "correct the field's spelling, or rename it if it means something else"),
    "duplicate_id": (LINE, "give every question its own id, or remove the repeated row"),
    "duplicate_trace": (
        TRACE,
        "remove the repeated trace; equal traces cannot be matched to different tags in earnest",
    ),
    "control_token": (
        KEPT,
        "none needed if meant: it is encoded as text, never as a control token; else clean the text",
    ),
    "answer_unreached": (KEPT, "check the answer and the traces, or filter with data.correct=only_true"),
    "unknown_character": (TRACE, "clean the text, or use a tokenizer that covers it"),
    "too_long": (TRACE, "raise data.max_length if the model allows it, or shorten the text"),
    "fewer_traces": (KEPT, "add traces, lower data.traces, or relax the filters"),
    "too_few_traces": (QUESTION, "add traces, lower data.min_traces, or relax the filters"),
}
EXAMPLES = 3  # of every kind, kept for the console


@dataclass(frozen=True)
class Problem:
    """One problem, with where it is, what became of the row, and what to do."""

    kind: str
    file: str
    line: int
    field: str
    message: str
    outcome: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.field}: {self.message} ({self.outcome}). Remedy: {self.remedy}."


class StrictError(UserError):
    """The first problem of a strict run."""


class Report:
    """Counts problems by kind, keeps the first few of each, and writes all of them to a file.

    Args:
        strict: raise at the first problem, of whatever kind.
        sink: open text file that receives every problem as one JSON line; None keeps examples only.
    """

    def __init__(self, strict: bool = False, sink: IO[str] | None = None) -> None:
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, list[Problem]] = {}
        self._strict = strict
        self._sink = sink

    @property
    def strict(self) -> bool:
        """Whether the first problem stops the run."""
        return self._strict

    def add(self, kind: str, file: str, line: int, field: str, message: str, outcome: str | None = None) -> None:
        """Record one problem.

        Args:
            kind: a key of `KINDS`.
            file: source file as the user named it.
            line: 1-based line in it.
            field: field the problem lies in, such as ``traces[2].text``.
            message: what is wrong, in one clause.
            outcome: what becomes of the row where it differs from the kind's usual outcome.

        Raises:
            StrictError: in a strict run.
        """
        usual, remedy = KINDS[kind]
        problem = Problem(kind, file, line, field, message, outcome or usual, remedy)
        self.counts[kind] += 1
        if self._sink is not None:
            self._sink.write(json.dumps(asdict(problem), ensure_ascii=False) + "\n")
        examples = self.examples.setdefault(kind, [])
        if len(examples) < EXAMPLES:
            examples.append(problem)
        if self._strict:
            raise StrictError(f"{problem} Stopped, since data.strict is on")
