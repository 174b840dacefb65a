"""Draws completions for every question and keeps them in a file that a kill cannot spoil.

What the files hold is told in `folder`. Where the model chooses its own tag, it draws the token at the fork first,
restricted to the tags' tokens, and the completion is drawn behind that tag.

A slot is a tag where every tag is tried in turn; elsewhere slots are repetitions, so that N samples are comparable.

Shape letters: N tags, K ids of one tag.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal

from nemo_forking.checksums import sums_where_sealed
from nemo_forking.config.evaluation import TagMode
from nemo_forking.engines import Completion, Engine, Request, request_seed
from nemo_forking.engines.progress import track
from nemo_forking.errors import UserError
from nemo_forking.evaluation.folder import SAMPLES, SETTINGS, TAGS, Growing, Key, key_of, load_lines
from nemo_forking.files import file_hash, write_aside
from nemo_forking.storage import storing
from nemo_forking.tags import Tags


@dataclass(frozen=True)
class TagChoice:
    """Which tag stands behind the prompt: see `SystemConfig.tags`. `slots` is the size of one vote.

    Mode given is for callers that chose the tags themselves: `given` holds one for every sample.
    """

    mode: TagMode | Literal["given"]
    slots: int
    tags: Tags | None = None
    one_tag: int = 0
    given: Mapping[Key, int] = field(default_factory=dict)

    def planned(self, key: Key) -> int | None:
        """The tag of a sample, as far as it does not depend on the model."""
        return {"every": key[1], "one": self.one_tag}.get(self.mode, self.given.get(key))


@dataclass(frozen=True)
class SamplingSettings:
    """How samples are drawn; paper section 10.1 has the authors' values."""

    rounds: int
    max_tokens: int
    stop: tuple[int, ...]
    temperature: float
    top_p: float
    seed: int


def draw_samples(
    open_engine: Callable[[], Engine],
    prompts: Mapping[str, Sequence[int]],
    choice: TagChoice,
    settings: SamplingSettings,
    decode: Callable[[list[int]], str],
    folder: Path,
    *,
    identity: Mapping | None = None,
    provenance: Mapping | None = None,
    keep_ids: bool = False,
    progress: str | None = None,
) -> list[dict]:
    """One sample per question, slot and round in `folder`; those already there are not drawn again.

    Args:
        open_engine: gives what completes the prompts; called only where samples are missing.
        prompts: question id -> prompt ids without a tag.
        choice: tags behind the prompts.
        settings: how many samples, and how they are drawn.
        decode: ids to text.
        folder: the measurement's folder.
        identity: what else the samples depend on, e.g. `{"weights": weights_hash(model)}`.
        provenance: what else is told in settings.json.
        keep_ids: the completion's token ids are kept as well, for training on them.
        progress: the progress bar's label; None shows no bar.

    Returns:
        The samples as in the file.

    Raises:
        UserError: samples in the folder were drawn otherwise, or a file is damaged.
    """
    folder.mkdir(parents=True, exist_ok=True)
    fingerprint = _fingerprint(prompts, choice, settings, identity)
    _check_fingerprint(folder, fingerprint)
    keys = [(q, slot, round_) for q in prompts for slot in range(choice.slots) for round_ in range(settings.rounds)]
    if (folder / SAMPLES).exists():
        return _complete(folder / SAMPLES, len(keys))

    engine = open_engine()
    _record_settings(folder, fingerprint, engine.describe(), provenance or {})
    tag_of = _tags(engine, prompts, keys, choice, settings, folder, progress)
    requests = {key: _request(prompts[key[0]], key, tag_of[key], choice, settings) for key in keys}

    def sample(key: Key, done: Completion) -> dict:
        ids = done.ids[:-1] if done.ids and done.ids[-1] in settings.stop else done.ids
        drawn = {"tag": tag_of[key], "text": decode(ids), "tokens": len(done.ids), "finish": done.finish_reason}
        drawn["logprob"] = round(float(sum(done.logprobs)), 4)
        return drawn | {"ids": done.ids} if keep_ids else drawn

    return _collect(engine, requests, sample, folder / SAMPLES, progress)


def weights_hash(folder: Path) -> str:
    """SHA-256 over a model folder's config and weights, so that samples of other weights are not mistaken for its.

    Raises:
        UserError: a file is not what the folder's checksums, where it has some, say was written.
    """
    digest, sums = hashlib.sha256(), sums_where_sealed(folder)
    if isinstance(sums, str):
        raise UserError(f"{folder}: {sums}; bring back a good copy of the model, or export it again")
    for file in sorted([*folder.glob("*.safetensors"), folder / "config.json"]):
        about = file.stat()
        found = _hash_once(file.resolve(), about.st_size, about.st_mtime_ns)
        if file.name in sums and sums[file.name]["sha256"] != found.hex():
            raise UserError(
                f"{file}: not what was written (its SHA-256 differs); bring back a good copy, or export again"
            )
        digest.update(file.name.encode() + found)
    return digest.hexdigest()


@cache
def _hash_once(file: Path, size: int, changed: int) -> bytes:
    """SHA-256 of a file; read once while its size and time stay, for a model may be evaluated in several ways."""
    return bytes.fromhex(file_hash(file))


# ---------------------------------------------------------------- the model's own tags


def _tags(engine, prompts, keys, choice: TagChoice, settings, folder: Path, progress) -> dict[Key, int | None]:
    """The tag of every sample; in mode own, drawn by the model: one token at the fork, restricted to the tags'."""
    if choice.mode != "own":
        return {key: choice.planned(key) for key in keys}
    fork_ids, before = choice.tags.fork_ids, choice.tags.ids_NK[0][: choice.tags.fork_offset]
    requests = {
        key: Request(
            id=_id(key),
            prompt=(*prompts[key[0]], *before),
            seed=request_seed(f"tag of {key[0]}", key[1], key[2], settings.seed),
            max_tokens=1,
            temperature=settings.temperature,
            top_p=settings.top_p,
            allowed=fork_ids,
        )
        for key in keys
    }

    def drawn(key: Key, done: Completion) -> dict:
        return {"tag": fork_ids.index(done.ids[0]), "logprob": round(done.logprobs[0], 6)}

    lines = _collect(engine, requests, drawn, folder / TAGS, progress and f"{progress}, tags")
    return {key_of(line): line["tag"] for line in lines}


def _request(prompt, key: Key, tag: int | None, choice: TagChoice, settings: SamplingSettings) -> Request:
    tag_ids = () if tag is None else choice.tags.ids_NK[tag]
    return Request(
        id=_id(key),
        prompt=(*prompt, *tag_ids),
        seed=request_seed(key[0], key[1], key[2], settings.seed),
        max_tokens=settings.max_tokens,
        temperature=settings.temperature,
        top_p=settings.top_p,
        stop=settings.stop,
    )


def _id(key: Key) -> str:
    question, slot, round_ = key
    return f"{slot}/{round_}/{question}"


# ---------------------------------------------------------------- files


def _collect(engine: Engine, requests: dict[Key, Request], line_of, path: Path, progress: str | None) -> list[dict]:
    """Runs the requests not yet answered; a line each."""
    if path.exists():
        return _complete(path, len(requests))
    key_by_id = {request.id: key for key, request in requests.items()}
    with storing(path.parent), Growing(path) as growing:
        there = {requests[key].id for key in growing.lines}
        for done in track(engine.rest(list(requests.values()), there), len(requests) - len(there), progress):
            question, slot, round_ = key = key_by_id[done.request_id]
            growing.add({"question": question, "slot": slot, "round": round_, **line_of(key, done)})
        return growing.finish(list(requests))


def _complete(path: Path, expected: int) -> list[dict]:
    lines = load_lines(path)
    if len(lines) != expected:
        raise UserError(f"{path}: holds {len(lines)} of {expected} lines; remove it to draw them anew")
    return lines


def _fingerprint(prompts, choice: TagChoice, settings: SamplingSettings, identity: Mapping | None) -> dict:
    """What the samples depend on, as JSON gives it back."""
    asked = json.dumps([[question, list(map(int, prompt))] for question, prompt in prompts.items()])
    tags = None if choice.mode == "none" else [list(map(int, ids)) for ids in choice.tags.ids_NK]
    fingerprint = {
        "sampling": asdict(settings),
        "tags": {"mode": choice.mode, "slots": choice.slots, "one_tag": choice.one_tag, "ids": tags},
        **({"given": [[*key, tag] for key, tag in choice.given.items()]} if choice.given else {}),
        "prompts": hashlib.sha256(asked.encode()).hexdigest(),
        **(identity or {}),
    }
    return json.loads(json.dumps(fingerprint))


def _check_fingerprint(folder: Path, fingerprint: dict) -> None:
    """Raises UserError where the folder's samples were drawn otherwise."""
    if not list(_sample_files(folder)):
        return
    file = folder / SETTINGS
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise UserError(f"{file}: unreadable, so the samples cannot be trusted; remove {folder} to draw anew") from None
    differing = sorted(_differences(found, fingerprint))
    if differing:
        raise UserError(
            f"{folder}: the samples here were drawn with another {', '.join(differing)}; remove the folder to draw "
            "anew, or choose another with evaluation.folder"
        )


def _differences(found: Mapping, wanted: Mapping, prefix: str = "") -> Iterator[str]:
    for name, value in wanted.items():
        other = found.get(name)
        if isinstance(value, dict) and isinstance(other, dict):
            yield from _differences(other, value, f"{prefix}{name}.")
        elif other != value:
            yield prefix + name


def _record_settings(folder: Path, fingerprint: dict, engine: dict, provenance: Mapping) -> None:
    """Writes settings.json before the first sample; an unfinished folder must be continued by the same engine."""
    file = folder / SETTINGS
    if list(_sample_files(folder)):
        began = json.loads(file.read_text(encoding="utf-8"))["engine"]
        differing = [name for name in ("engine", "version", "dtype") if began.get(name) != engine.get(name)]
        if differing:
            before, now = ({name: e.get(name) for name in differing} for e in (began, engine))
            raise UserError(
                f"{folder}: begun with {before}, and the engine is {now} now; continue with the first, or remove the "
                "folder to draw anew"
            )
    content = {**fingerprint, "engine": engine, **provenance}
    write_aside(file, json.dumps(content, indent=1) + "\n")


def _sample_files(folder: Path) -> Iterator[Path]:
    yield from folder.glob(f"{SAMPLES}*")
    yield from folder.glob(f"{TAGS}*")
