"""Whether a stage is complete, from the files it was to write; there is no mark of being done beside them.

Every check compares what is there with what the stage's configuration asks for, and is quick on large models: weights
are known by identity and headers, samples by their settings and by being younger than the model. Needs no torch.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from nemo_forking.cluster.graph import graph
from nemo_forking.cluster.questions import differing
from nemo_forking.cluster.stages import Stage
from nemo_forking.config import Config
from nemo_forking.data.prepare import is_prepared
from nemo_forking.data.token_file import TokenFile
from nemo_forking.errors import UserError
from nemo_forking.evaluation.folder import METRICS, QUESTIONS, SAMPLES, SETTINGS, VERDICTS, measurement_folder
from nemo_forking.rl.prompts import load_prompts
from nemo_forking.rl.prompts.folder import check_settings
from nemo_forking.training.identity import fingerprint, finished, policy_identity, set_identity
from nemo_forking.weight_files import tensor_entries

RESULTS, REPORT, PROVENANCE = "results.json", "report.html", "provenance.json"


def lacking(stage: Stage) -> str | None:
    """What a stage lacks, when all that it needs is complete; None when it is complete itself.

    Raises:
        UserError: settings or sources that cannot be used, or a folder that belongs to another run.
    """
    return next(CHECKS[stage.recipe](stage), None)


def complete_stages(stages: Sequence[Stage]) -> set[str]:
    """The names of those that are complete, with all that they need.

    Raises:
        UserError: as `lacking`, for every stage that could start and cannot be used as it is.
    """
    complete: set[str] = set()
    refused = []
    for stage in stages:
        try:
            if set(stage.needs) <= complete and lacking(stage) is None:
                complete.add(stage.name)
        except UserError as error:
            refused.append(f"{stage.name}: {error}")
    if refused:
        raise UserError("\n".join(refused))
    return complete


# ---------------------------------------------------------------- one check for every recipe


def _questions(stage: Stage) -> Iterator[str]:
    yield from differing(stage.config)


def _data(stage: Stage) -> Iterator[str]:
    if not is_prepared(stage.config.data):
        yield f"{stage.config.data.folder} is not prepared from these sources with these settings"


def _prompts(stage: Stage) -> Iterator[str]:
    try:
        load_prompts(stage.config.prompts.folder)
    except UserError as error:
        yield str(error)
        return
    check_settings(stage.config)


def _conversion(stage: Stage) -> Iterator[str]:
    convert = stage.config.convert
    folder, source = Path(convert.folder), Path(convert.source or "")
    if not (source / "config.json").is_file():
        raise UserError(
            f"convert.source={convert.source} is no model folder (it lacks config.json): download it there, or set "
            "model.base to where it is"
        )
    record = folder / PROVENANCE
    if not record.is_file():
        yield f"{folder} is not there"
        return
    try:
        found = json.loads(record.read_text(encoding="utf-8"))["conversion"]
        same = (found["source"], found["convert.to"]) == (fingerprint(source), convert.to)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{record} is damaged ({error!r}); remove {folder} to convert again") from None
    if not same:
        raise UserError(f"{folder} was converted from another source than {source}; remove it to convert again")


def _set_run(stage: Stage) -> Iterator[str]:
    yield from _model(stage, lambda config: set_identity(config, TokenFile(config.data.folder)))


def _policy_run(stage: Stage) -> Iterator[str]:
    yield from _model(stage, lambda config: policy_identity(config, load_prompts(config.prompts.folder)[1]))


def _model(stage: Stage, identity_of: Callable[[Config], dict]) -> Iterator[str]:
    config = stage.config
    folder = Path(config.run.folder)
    if not folder.exists():
        yield f"{folder} is not there"
        return
    model = folder / "model"
    if not finished(config, identity_of(config), quick=True):
        yield f"{model} is {'damaged' if model.exists() else 'not exported yet'}"
        return
    try:
        tensor_entries(model)
    except UserError as error:
        yield str(error)


def _evaluation(stage: Stage) -> Iterator[str]:
    config, home = stage.config, Path(stage.config.evaluation.folder)
    for settings in config.evaluation.systems:
        for name, benchmark in config.benchmarks.items():
            for temperature in config.evaluation.temperatures:
                asked = {
                    "rounds": benchmark.rounds,
                    "max_tokens": config.evaluation.max_tokens,
                    "temperature": temperature,
                    "top_p": config.evaluation.top_p,
                    "seed": settings.seed,
                }
                folder = measurement_folder(config, settings, name, temperature)
                yield from _measurement(folder, Path(settings.model), asked)
    results = _json(home / RESULTS) or {}
    for name in config.benchmarks:
        there = results.get("benchmarks", {}).get(name, {}).get("systems", {})
        if missing := [one.name for one in config.evaluation.systems if one.name not in there]:
            yield f"{home / RESULTS} has no row of {missing[0]} on {name}"


def _measurement(folder: Path, model: Path, asked: Mapping[str, object]) -> Iterator[str]:
    for name in (QUESTIONS, SAMPLES, VERDICTS, METRICS, SETTINGS):
        if not (folder / name).is_file():
            yield f"{folder} has no {name}"
            return
    settings = _json(folder / SETTINGS)
    if settings is None or _json(folder / METRICS) is None:
        yield f"{folder}: {SETTINGS} or {METRICS} is damaged"
        return
    drawn = settings.get("sampling", {})
    if other := [key for key, value in asked.items() if drawn.get(key) != value]:
        yield f"{folder}: drawn with another {', '.join(other)}"
    measured = (folder / METRICS).stat().st_mtime_ns
    weights = (*model.glob("*.safetensors"), model / "config.json")
    if max((file.stat().st_mtime_ns for file in weights if file.exists()), default=0) > measured:
        yield f"{folder} is older than {model}"


def _table(stage: Stage) -> Iterator[str]:
    folder = Path(stage.config.run.folder)
    evaluations = [one for one in graph(stage.config) if one.recipe == "evaluate"]
    written = [file.stat().st_mtime_ns for file in (folder / RESULTS, folder / REPORT) if file.is_file()]
    if len(written) < 2 or _json(folder / RESULTS) is None:
        yield f"{folder} has no {RESULTS} with its {REPORT}"
        return
    for one in evaluations:
        results = Path(one.config.evaluation.folder) / RESULTS
        if not results.is_file() or results.stat().st_mtime_ns > min(written):
            yield f"{folder / RESULTS} is older than {results}"


def _json(file: Path) -> dict | None:
    """A file's JSON object; None where it is missing or damaged."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


CHECKS: dict[str, Callable[[Stage], Iterator[str]]] = {
    "make_questions": _questions,
    "prepare_data": _data,
    "prepare_prompts": _prompts,
    "convert": _conversion,
    "ssft": _set_run,
    "gfpo": _policy_run,
    "evaluate": _evaluation,
    "table": _table,
}
