"""A measurement's folder: one system on one benchmark at one temperature.

    questions.jsonl  id, asked (text for readers), kind, gold (right answer, as text)
    samples.jsonl    completions (`sampling`), one a line, ordered by question, slot and round:
        question  id                            slot    place in a vote, 0 .. N-1       round  from 0
        tag       0 .. N-1, null without tags   text    without the stop token          tokens generated, stop included
        finish    "stop" or "length"            logprob sum over the completion, nats
    tags.jsonl       tags the model drew itself, where it did
    verdicts.jsonl   (`grading`), in the samples' order: question, slot, round, verdict, answer (canonical, or null),
                     route (where a parser exists, or null), note (for readers)
    settings.json    what the samples depend on, and how they were drawn
    grading.json     the grader, and the samples its verdicts belong to
    metrics.json     what `metrics.summarise` makes of it
Every sample, tag and verdict ends in a CRC-32 of its own.
`<name>.partial` grows line by line and is renamed when it is whole, so that a kill loses what is in flight only.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nemo_forking.checksums import checked, with_crc
from nemo_forking.errors import UserError
from nemo_forking.files import write_aside

if TYPE_CHECKING:
    from nemo_forking.config import Config
    from nemo_forking.config.evaluation import SystemConfig

QUESTIONS, SAMPLES, TAGS, VERDICTS = "questions.jsonl", "samples.jsonl", "tags.jsonl", "verdicts.jsonl"
SETTINGS, GRADING, METRICS = "settings.json", "grading.json", "metrics.json"

Key = tuple[str, int, int]  # question id, slot, round


def measurement_folder(config: Config, settings: SystemConfig, benchmark: str, temperature: float) -> Path:
    """Where the samples of a system on a benchmark lie."""
    system = f"{settings.name}-seed{settings.seed}"
    return Path(config.evaluation.folder) / benchmark / system / f"t{temperature:g}"


def key_of(line: Mapping) -> Key:
    """Which sample a line is, or is about."""
    return line["question"], line["slot"], line["round"]


def load_lines(path: Path) -> list[dict]:
    """The lines of a finished file of samples, tags or verdicts; UserError names the line that is none."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        raise UserError(f"{path}: not there; run the evaluation first") from None
    return [_parse(line, path, number) for number, line in enumerate(lines, 1)]


class Growing:
    """A file of lines under way: what a killed run left, then one line after the other.

    A context manager: leaving it closes the file, by an error too, so that the same process may take it up again.

    Attributes:
        lines: key -> line, as far as they are there.
    """

    def __init__(self, path: Path) -> None:
        """Takes up `<path>.partial`; a last line cut short is taken off it.

        Raises:
            UserError: a line in the middle is damaged, or another process is writing the file.
        """
        self.path = path
        self.partial = path.with_name(f"{path.name}.partial")
        self.lines: dict[Key, dict] = {}
        self._file = self.partial.open("a", encoding="utf-8")
        self._lock()
        raw = self.partial.read_bytes()
        whole = raw[: raw.rfind(b"\n") + 1]
        if len(whole) < len(raw):
            os.truncate(self.partial, len(whole))
        for number, line in enumerate(whole.decode(errors="replace").splitlines(), 1):
            parsed = _parse(line, self.partial, number)
            self.lines[key_of(parsed)] = parsed

    def __enter__(self) -> Growing:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, line: dict) -> None:
        """Writes one line through to the operating system."""
        self.lines[key_of(line)] = line
        self._file.write(with_crc(line) + "\n")
        self._file.flush()

    def finish(self, keys: Sequence[Key]) -> list[dict]:
        """Puts the lines in order, writes the finished file and drops the partial one."""
        ordered = [self.lines[key] for key in keys]
        write_aside(self.path, "".join(with_crc(line) + "\n" for line in ordered))
        self.partial.unlink()
        return ordered

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{self.partial}: another process is writing it; wait for its end, or choose another folder with "
                "evaluation.folder"
            ) from None
        except OSError:
            pass  # a file system without locks


def write_questions(folder: Path, questions: Sequence[dict]) -> None:
    """What was asked, for readers: id, asked, kind and gold of every question."""
    write_aside(folder / QUESTIONS, "".join(json.dumps(question) + "\n" for question in questions))


def load_joined(folder: Path) -> list[dict]:
    """Samples, verdicts and questions as one line a sample, as metrics and report take them.

    Raises:
        UserError: a file is missing or damaged, or they do not belong together.
    """
    samples, verdicts = load_lines(folder / SAMPLES), load_lines(folder / VERDICTS)
    if list(map(key_of, samples)) != list(map(key_of, verdicts)):
        raise UserError(f"{folder / VERDICTS}: not the verdicts of {SAMPLES} beside it; remove it to grade anew")
    try:
        asked = [json.loads(line) for line in (folder / QUESTIONS).read_text(encoding="utf-8").splitlines()]
        question_of = {question.pop("id"): question for question in asked}
        pairs = zip(samples, verdicts, strict=True)
        return [sample | verdict | question_of[sample["question"]] for sample, verdict in pairs]
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise UserError(f"{folder / QUESTIONS}: missing or damaged ({error!r}); run the evaluation again") from None


def _parse(line: str, path: Path, number: int) -> dict:
    try:
        parsed = checked(line)
        key_of(parsed)
    except (ValueError, TypeError, KeyError):
        raise UserError(
            f"{path}, line {number}: not a line of this file as it was written; remove the file to make it anew"
        ) from None
    return parsed
