"""The prepared folder: all token ids in one memory-mapped file, an index, and a manifest.

    tokens.bin      the ids of every sequence, one after the other, unsigned 32-bit little-endian;
                    a question's prompt comes first, then the target of each of its traces
    index.npz       sequence_end [S] (where each sequence ends in tokens.bin), sequence_teacher [S] (-1: a prompt),
                    question_end [Q] (where each question ends among the sequences), id_text, id_end [Q] (its UTF-8 id)
    manifest.json   what was prepared from what, counts, lengths, and the size and hash of the two files above
    problems.jsonl  every problem found on the way

A target is all that follows the tag: trace, answer and end token, as the target template says.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nemo_forking.errors import UserError
from nemo_forking.files import file_hash

VERSION = 1
TOKENS, INDEX, MANIFEST = "tokens.bin", "index.npz", "manifest.json"


@dataclass(frozen=True)
class Trace:
    """Target ids [T] of one trace (all that follows the tag), the index of its teacher, its place in the question."""

    ids: np.ndarray
    teacher: int
    place: int = 0


@dataclass(frozen=True)
class Question:
    """A question of a prepared folder: its place there, its id, prompt ids [T] and traces."""

    index: int
    id: str
    prompt: np.ndarray
    traces: tuple[Trace, ...]


class TokenFile:
    """Read access to a prepared folder; tokens are memory-mapped.

    Args:
        folder: prepared folder.
        verify: compare the hash of the token file as well as its size (reads it once; about a second a gigabyte).

    Attributes:
        teachers: teacher names, sorted; `Trace.teacher` is an index into them.
        manifest: the manifest as a dict.

    Raises:
        UserError: the folder is absent, incomplete, of another version, or its files were changed.
    """

    def __init__(self, folder: str | Path, verify: bool = True) -> None:
        self.folder = Path(folder)
        self.manifest = read_manifest(self.folder)
        if self.manifest is None:
            raise UserError(f"{folder} holds no prepared data; run recipes/prepare_data.py with data.folder={folder}")
        if self.manifest["version"] != VERSION:
            raise UserError(f"{folder} has version {self.manifest['version']}, not {VERSION}; prepare the data again")
        for name, hashed in ((TOKENS, verify), (INDEX, True)):
            _check_file(self.folder / name, self.manifest["files"][name], hashed)
        self.teachers: list[str] = self.manifest["teachers"]
        self._tokens = np.memmap(self.folder / TOKENS, dtype="<u4", mode="r")
        with np.load(self.folder / INDEX) as index:
            self._sequence_start = np.concatenate([[0], index["sequence_end"]])
            self._question_start = np.concatenate([[0], index["question_end"]])
            self._teacher = index["sequence_teacher"]
            self._id_start = np.concatenate([[0], index["id_end"]])
            self._id_text = index["id_text"].tobytes()

    def __len__(self) -> int:
        """Return the number of questions."""
        return len(self._question_start) - 1

    def question(self, index: int) -> Question:
        """Return question `index` (0-based); ids are copied out of the map as int64."""
        if not 0 <= index < len(self):
            raise IndexError(f"question {index} of {len(self)}")
        first, end = self._question_start[index : index + 2]
        traces = (Trace(self._sequence(s), int(self._teacher[s]), int(s - first - 1)) for s in range(first + 1, end))
        name = self._id_text[self._id_start[index] : self._id_start[index + 1]].decode()
        return Question(index, name, self._sequence(first), tuple(traces))

    def longest(self) -> int:
        """Return the tokens of the longest prompt and target together, the tag apart."""
        lengths_S = np.diff(self._sequence_start)
        prompts_Q, traces_Q = lengths_S[self._question_start[:-1]], np.diff(self._question_start) - 1
        targets = lengths_S[self._teacher >= 0]
        return int((np.repeat(prompts_Q, traces_Q) + targets).max(initial=0))

    def most_traces(self) -> int:
        """Return the number of traces of the question with most."""
        return int(np.diff(self._question_start).max(initial=1)) - 1

    def _sequence(self, number: int) -> np.ndarray:
        start, end = self._sequence_start[number : number + 2]
        return self._tokens[start:end].astype(np.int64)


class TokenFileWriter:
    """Writes tokens as they come and the index and manifest at the end; holds the index in memory, not the tokens."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._tokens = open(folder / TOKENS, "wb")
        self._written = 0
        self._names: list[str] = []  # teachers in order of appearance
        self._sequence_end, self._teacher = array("q"), array("q")
        self._question_end, self._id_end = array("q"), array("q")
        self._id_text = bytearray()

    def __enter__(self) -> TokenFileWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._tokens.close()

    def __len__(self) -> int:
        """Return the number of questions written."""
        return len(self._question_end)

    def add(self, question_id: str, prompt: Sequence[int], traces: Sequence[tuple[str, Sequence[int]]]) -> None:
        """Append a question: its prompt and, for every trace, the teacher's name and the target ids."""
        self._append(prompt, -1)
        for teacher, ids in traces:
            if teacher not in self._names:
                self._names.append(teacher)
            self._append(ids, self._names.index(teacher))
        self._question_end.append(len(self._sequence_end))
        self._id_text += question_id.encode()
        self._id_end.append(len(self._id_text))

    def finish(self, facts: dict) -> dict:
        """Write index and manifest; return the manifest, which holds `facts` and what the writer itself knows."""
        self._tokens.close()
        teachers = sorted(self._names)
        rank = np.array([teachers.index(name) for name in self._names] + [-1])  # the last entry serves prompts
        teacher_S = rank[np.asarray(self._teacher, dtype=np.int64)].astype(np.int32)
        sequence_end_S = np.asarray(self._sequence_end, dtype=np.int64)
        np.savez(
            self._folder / INDEX,
            sequence_end=sequence_end_S,
            sequence_teacher=teacher_S,
            question_end=np.asarray(self._question_end, dtype=np.int64),
            id_text=np.frombuffer(bytes(self._id_text), dtype=np.uint8),
            id_end=np.asarray(self._id_end, dtype=np.int64),
        )
        lengths_S = np.diff(sequence_end_S, prepend=0)
        manifest = {
            "version": VERSION,
            **facts,
            "teachers": teachers,
            "lengths": {
                "prompt": length_statistics(lengths_S[teacher_S < 0]),
                "target": length_statistics(lengths_S[teacher_S >= 0]),
                "teacher": {name: length_statistics(lengths_S[teacher_S == i]) for i, name in enumerate(teachers)},
            },
            "files": {name: _describe(self._folder / name) for name in (TOKENS, INDEX)},
        }
        (self._folder / MANIFEST).write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")
        return manifest

    def _append(self, ids: Sequence[int], teacher: int) -> None:
        np.asarray(ids, dtype="<u4").tofile(self._tokens)
        self._written += len(ids)
        self._sequence_end.append(self._written)
        self._teacher.append(teacher)


def read_manifest(folder: Path) -> dict | None:
    """Return the manifest of a prepared folder, or None where there is none."""
    path = Path(folder) / MANIFEST
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); remove the folder and prepare the data again") from error


def length_statistics(lengths: np.ndarray) -> dict[str, float | int]:
    """Count, total, mean, quantiles and largest of sequence lengths in tokens."""
    if lengths.size == 0:
        return {"count": 0, "total": 0, "mean": 0.0, "p50": 0, "p90": 0, "p99": 0, "max": 0}
    quantiles = np.quantile(lengths, [0.5, 0.9, 0.99], method="higher")
    return {
        "count": int(lengths.size),
        "total": int(lengths.sum()),
        "mean": round(float(lengths.mean()), 1),
        **{name: int(value) for name, value in zip(("p50", "p90", "p99"), quantiles, strict=True)},
        "max": int(lengths.max()),
    }


def _describe(path: Path) -> dict:
    return {"bytes": path.stat().st_size, "sha256": file_hash(path)}


def _check_file(path: Path, expected: dict, hashed: bool) -> None:
    remedy = "remove the folder and prepare the data again"
    if not path.is_file():
        raise UserError(f"{path} is missing; {remedy}")
    if (size := path.stat().st_size) != expected["bytes"]:
        raise UserError(f"{path} has {size} bytes, but its manifest says {expected['bytes']}; {remedy}")
    if hashed and file_hash(path) != expected["sha256"]:
        raise UserError(f"{path} was changed after it was prepared (its hash differs from the manifest's); {remedy}")
