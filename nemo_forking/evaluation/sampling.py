"""Draws every tag on every held-out question and keeps the samples in a file that a kill cannot spoil.

A samples file is JSON lines, one sample a line, ordered by question, tag and round:
    question  id                      asked   the question's text (for readers; may be empty)
    kind      kind of question        gold    the right answer, canonical
    tag       slot, from 0            round   from 0
    text      what the model wrote, without the stop token
    answer    canonical answer parsed from it, or null       route   parsed route, or null
    correct   whether the answer is right                    tokens  generated, stop token included
    finish    "stop" or "length"
`<file>.partial` grows while samples are drawn and is renamed when all are there; `<file>.settings.json` beside it says
how they were drawn.

Shape letters: N tags, K ids of one tag.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from nemo_forking.engines.interface import Completion, Engine, Request, request_seed
from nemo_forking.engines.progress import track
from nemo_forking.errors import UserError
from nemo_forking.files import write_aside

Parse = Callable[[str], "str | None"]
Key = tuple[str, int, int]  # question id, tag, round


@dataclass(frozen=True)
class HeldOut:
    """A question to be asked: prompt ids without a tag, canonical right answer, kind, and its text for readers."""

    id: str
    prompt: tuple[int, ...]
    answer: str
    kind: str
    text: str = ""


@dataclass(frozen=True)
class SamplingSettings:
    """How samples are drawn; the defaults are the paper's temperature and top-p (section 10.1)."""

    rounds: int
    max_tokens: int
    stop: tuple[int, ...]
    temperature: float = 0.7
    top_p: float = 0.95
    seed: int = 0


@dataclass(frozen=True)
class Reader:
    """Makes sense of a completion: ids to text, text to its canonical answer and its route (None if it has none)."""

    decode: Callable[[list[int]], str]
    answer: Parse
    route: Parse


def draw_samples(
    engine: Engine,
    questions: Sequence[HeldOut],
    tags_NK: Sequence[Sequence[int]],
    settings: SamplingSettings,
    reader: Reader,
    path: Path,
    *,
    identity: dict | None = None,
    progress: str | None = None,
) -> list[dict]:
    """One sample per question, tag and round, written to `path`; samples already there are not drawn again.

    A model without tags is sampled with `[()] * N`, and one trained on a single tag with that tag N times: N
    independent samples under the same prompts, comparable with N tags.

    Args:
        engine: what completes the prompts.
        questions: held-out questions; their ids differ.
        tags_NK: ids put behind the prompt, for every tag.
        settings: how many samples, and how they are drawn.
        reader: makes text, answer and route of a completion.
        path: the samples file.
        identity: what else the samples depend on, e.g. `{"weights": weights_hash(folder)}`.
        progress: the progress bar's label; None shows no bar.

    Returns:
        The samples as in the file.

    Raises:
        UserError: samples at `path` were drawn otherwise, or the file is damaged.
    """
    partial = path.with_name(path.name + ".partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    plan = {request.id: (request, question, key) for request, question, key in _plan(questions, tags_NK, settings)}
    _check_settings(path, partial, _fingerprint(questions, tags_NK, settings, identity), engine)
    if path.exists():
        return _complete(path, len(plan))

    samples = _recover(partial)
    missing = [request for request, _, key in plan.values() if key not in samples]
    with partial.open("a", encoding="utf-8") as file:
        for done in track(engine.stream(missing), len(missing), progress):
            _, question, key = plan[done.request_id]
            samples[key] = _sample(done, question, key, settings.stop, reader)
            file.write(_line(samples[key]))
            file.flush()
    ordered = [samples[key] for _, _, key in plan.values()]
    write_aside(path, "".join(map(_line, ordered)))
    partial.unlink()
    return ordered


def load_samples(path: Path) -> list[dict]:
    """The samples of a finished file; UserError names the line that is not a sample."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise UserError(f"{path}: there are no samples here; draw them first") from None
    return [_parse(line, path, number) for number, line in enumerate(lines, 1)]


def weights_hash(folder: Path) -> str:
    """SHA-256 over a model folder's config and weights, so that samples of other weights are not mistaken for its."""
    digest = hashlib.sha256()
    files = sorted([*folder.glob("*.safetensors"), folder / "config.json"])
    for file in files:
        digest.update(file.name.encode())
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def _plan(questions, tags_NK, settings):
    """Every sample to be drawn, in the order of the file: its request, question and key."""
    ids = [question.id for question in questions]
    if len(set(ids)) != len(ids):
        raise UserError("held-out question ids must differ; one occurs twice")
    for question in questions:
        for tag, tag_ids in enumerate(tags_NK):
            for round_ in range(settings.rounds):
                request = Request(
                    id=f"{tag}/{round_}/{question.id}",
                    prompt=(*question.prompt, *tag_ids),
                    seed=request_seed(question.id, tag, round_, settings.seed),
                    max_tokens=settings.max_tokens,
                    temperature=settings.temperature,
                    top_p=settings.top_p,
                    stop=tuple(settings.stop),
                )
                yield request, question, (question.id, tag, round_)


def _sample(done: Completion, question: HeldOut, key: Key, stop: Sequence[int], reader: Reader) -> dict:
    ids = done.ids[:-1] if done.ids and done.ids[-1] in stop else done.ids
    text = reader.decode(ids)
    answer = reader.answer(text)
    return {
        "question": question.id,
        "asked": question.text,
        "kind": question.kind,
        "gold": question.answer,
        "tag": key[1],
        "round": key[2],
        "text": text,
        "answer": answer,
        "route": reader.route(text),
        "correct": answer == question.answer,
        "tokens": len(done.ids),
        "finish": done.finish_reason,
    }


def _fingerprint(questions, tags_NK, settings, identity) -> dict:
    """What the samples depend on, as JSON gives it back."""
    asked = json.dumps([[q.id, list(map(int, q.prompt)), q.answer, q.kind] for q in questions])
    fingerprint = {
        **asdict(settings),
        "tags": [list(map(int, ids)) for ids in tags_NK],
        "questions": hashlib.sha256(asked.encode()).hexdigest(),
        "identity": identity or {},
    }
    return json.loads(json.dumps(fingerprint))


def _check_settings(path: Path, partial: Path, fingerprint: dict, engine: Engine) -> None:
    """Writes the settings beside new samples; raises UserError where samples drawn otherwise are."""
    beside = path.with_name(path.name + ".settings.json")
    if not path.exists() and not partial.exists():
        write_aside(beside, json.dumps({**fingerprint, "engine": engine.describe()}, indent=2) + "\n")
        return
    try:
        found = json.loads(beside.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise UserError(f"{beside}: unreadable, so {path.name} cannot be trusted; remove both to draw anew") from None
    differing = sorted(name for name, value in fingerprint.items() if found.get(name) != value)
    if differing:
        raise UserError(
            f"{path}: the samples here were drawn with another {', '.join(differing)}; "
            f"remove {path.name}* to draw anew, or choose another folder"
        )


def _complete(path: Path, expected: int) -> list[dict]:
    samples = load_samples(path)
    if len(samples) != expected:
        raise UserError(f"{path}: holds {len(samples)} of {expected} samples; remove it to draw them anew")
    return samples


def _recover(partial: Path) -> dict[Key, dict]:
    """The samples a killed run left; a last line cut short is taken off the file."""
    if not partial.exists():
        return {}
    raw = partial.read_bytes()
    whole = raw[: raw.rfind(b"\n") + 1]
    if len(whole) < len(raw):
        os.truncate(partial, len(whole))
    samples = [_parse(line, partial, number) for number, line in enumerate(whole.decode().splitlines(), 1)]
    return {(sample["question"], sample["tag"], sample["round"]): sample for sample in samples}


def _parse(line: str, path: Path, number: int) -> dict:
    try:
        sample = json.loads(line)
        sample["question"], sample["tag"], sample["round"], sample["correct"]
    except (ValueError, TypeError, KeyError):
        raise UserError(f"{path}, line {number}: not a sample; remove the file to draw anew") from None
    return sample


def _line(sample: dict) -> str:
    return json.dumps(sample) + "\n"
