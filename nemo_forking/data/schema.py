"""The source schema: questions with traces, one JSON object a line, every field checked.

    {"id": "q1", "question": "...", "answer": "...",
     "traces": [{"teacher": "r1", "text": "...", "complete": true, "correct": true, "answer": "..."}]}

`complete`, `correct` and a trace's own `answer` may be absent or null. Other fields are ignored; one whose name looks
like a misspelt optional field is reported. Rows of s1K and s1K-1.1 are turned into this form first
(`nemo_forking.data.s1k`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from nemo_forking.data import s1k
from nemo_forking.data.problems import LINE, TRACE, Report
from nemo_forking.errors import UserError


@dataclass(frozen=True)
class SourceTrace:
    """One teacher's trace; `position` is its place in the source row, flags are None where the source has none."""

    position: int
    teacher: str
    text: str
    answer: str | None
    complete: bool | None
    correct: bool | None


@dataclass(frozen=True)
class SourceQuestion:
    """One valid row of a source file, with the traces that are valid."""

    file: str
    line: int
    id: str
    question: str
    answer: str
    traces: tuple[SourceTrace, ...]


def read_questions(
    path: str | Path, format: str, report: Report, seen: dict[bytes, str], advance: Callable[[int], None] | None = None
) -> Iterator[SourceQuestion]:
    """Yield the valid rows of a source file in order, reading one line at a time.

    Args:
        path: JSONL file, UTF-8 (a byte-order mark and blank lines are ignored).
        format: "native" or "s1k".
        report: receives every problem.
        seen: ids met so far over all source files, as short hashes -> place; extended here.
        advance: called with the number of bytes read, line by line.

    Raises:
        UserError: the file is not there.
        StrictError: at the first problem, when the report is strict.
    """
    if not Path(path).is_file():
        raise UserError(f"data.source: {path} is not a file; give the path of a JSONL file with traces")
    with open(path, "rb") as lines:
        for number, raw in enumerate(lines, start=1):
            row = _Row(str(path), number, report)
            question = row.read(raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw, format)
            if question is not None and row.is_new(question.id, seen):
                yield question
            if advance is not None:
                advance(len(raw))


class _Row:
    """One line of a source file while it is being checked."""

    def __init__(self, file: str, line: int, report: Report) -> None:
        self._file, self._line, self._report = file, line, report
        self._names: dict[str, str] = {}  # field of the native form -> name in the source, where they differ

    def read(self, raw: bytes, format: str) -> SourceQuestion | None:
        """Return the question of a line, or None where there is none to use."""
        if not raw.strip():
            return None
        row = self._parse(raw)
        if row is None:
            return None
        if format == "s1k":
            row, self._names = s1k.to_native(row)
        texts = [self._text(row, key, key, LINE) for key in ("id", "question", "answer")]
        traces = self._traces(row)
        self._misspelt(row, "", ())
        if None in texts or not traces:
            return None
        return SourceQuestion(self._file, self._line, *texts, tuple(traces))

    def is_new(self, id: str, seen: dict[bytes, str]) -> bool:
        """Note the id; False and a problem when an earlier row had it."""
        key = hashlib.blake2b(id.encode(), digest_size=12).digest()
        first = seen.setdefault(key, f"{self._file}:{self._line}")
        if first == f"{self._file}:{self._line}":
            return True
        self._problem("duplicate_id", "id", f"the id {id!r} was used before, at {first}")
        return False

    def _problem(self, kind: str, field: str, message: str, outcome: str | None = None) -> None:
        self._report.add(kind, self._file, self._line, self._names.get(field, field), message, outcome)

    def _parse(self, raw: bytes) -> dict | None:
        try:
            row = json.loads(raw.decode("utf-8").rstrip())
        except UnicodeDecodeError as error:
            message = f"byte {raw[error.start]:#04x} at column {error.start + 1} is not UTF-8"
            return self._problem("bad_utf8", "line", message)
        except (json.JSONDecodeError, RecursionError) as error:
            where = (
                f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else "nested too deep"
            )
            return self._problem("bad_json", "line", f"not JSON: {where}")
        if not isinstance(row, dict):
            return self._problem("not_an_object", "line", f"holds {_kind(row)} instead of an object")
        return row

    def _text(self, row: dict, key: str, field: str, outcome: str) -> str | None:
        """Return a required, non-empty string field."""
        if row.get(key) is None:
            return self._problem("missing_field", field, f"the field {self._hint(row, key)} is missing", outcome)
        value = row[key]
        if not isinstance(value, str):
            return self._problem("wrong_type", field, f"{_kind(value)} instead of a string", outcome)
        if not value.strip():
            return self._problem("empty_field", field, "the field is empty", outcome)
        if not _encodable(value):
            return self._problem("bad_unicode", field, "the text holds half a surrogate pair", outcome)
        return value

    def _hint(self, row: dict, key: str) -> str:
        near = get_close_matches(key, [name for name in row if name != key], n=1, cutoff=0.8)
        return f"{key!r} (is {near[0]!r} meant?)" if near else repr(key)

    def _traces(self, row: dict) -> list[SourceTrace]:
        traces = row.get("traces")
        if traces is None:
            self._problem("missing_field", "traces", f"the field {self._hint(row, 'traces')} is missing")
        elif not isinstance(traces, list):
            self._problem("wrong_type", "traces", f"{_kind(traces)} instead of a list of objects")
        elif not traces:
            self._problem("empty_field", "traces", "the question has no traces")
        else:
            return self._distinct([self._trace(trace, position) for position, trace in enumerate(traces)])
        return []

    def _trace(self, trace: object, position: int) -> SourceTrace | None:
        where = f"traces[{position}]"
        if not isinstance(trace, dict):
            return self._problem("wrong_type", where, f"{_kind(trace)} instead of an object", TRACE)
        teacher = self._text(trace, "teacher", f"{where}.teacher", TRACE)
        text = self._text(trace, "text", f"{where}.text", TRACE)
        answer = trace.get("answer")
        usable = teacher is not None and text is not None
        if answer is not None:
            answer = self._text(trace, "answer", f"{where}.answer", TRACE)
            usable &= answer is not None
        for flag in ("complete", "correct"):
            if trace.get(flag) is not None and not isinstance(trace[flag], bool):
                message = f"{_kind(trace[flag])} instead of true or false"
                self._problem("wrong_type", f"{where}.{flag}", message, TRACE)
                usable = False
        self._misspelt(trace, f"{where}.", ("complete", "correct", "answer"))
        if not usable:
            return None
        return SourceTrace(position, teacher, text, answer, trace.get("complete"), trace.get("correct"))

    def _misspelt(self, row: dict, prefix: str, optional: tuple[str, ...]) -> None:
        """Report ignored fields that look like an optional one; a misspelt required field is reported as missing."""
        for name in row:
            near = get_close_matches(name, [key for key in optional if key not in row], n=1, cutoff=0.8)
            if near and name not in optional:
                message = f"the unknown field looks like {near[0]!r} and is ignored"
                self._problem("unknown_field", prefix + name, message)

    def _distinct(self, traces: list[SourceTrace | None]) -> list[SourceTrace]:
        first: dict[str, SourceTrace] = {}
        for trace in traces:
            if trace is None:
                continue
            same = first.setdefault(trace.text.strip(), trace)
            if same is not trace:
                message = f"the text equals that of traces[{same.position}] ({same.teacher})"
                self._problem("duplicate_trace", f"traces[{trace.position}].text", message)
        return list(first.values())


def _encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _kind(value: object) -> str:
    names = {
        bool: "true or false",
        int: "a number",
        float: "a number",
        str: "a string",
        list: "a list",
        dict: "an object",
    }
    return names.get(type(value), "null")
