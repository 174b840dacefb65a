"""A prepared folder of RL prompts: made once, read by training.

prompts.jsonl  id, prompt (the user's message), text (for readers), gold, kind, answer; one prompt a line, as drawn
report.json    sha256 of prompts.jsonl; inputs: configuration keys it was made from, files as their sha256; sources
and evaluation sets; reading, cleaning, drawn: what became of the rows
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from nemo_forking.data.folders import written_aside
from nemo_forking.errors import UserError
from nemo_forking.evaluation.benchmarks import Problem, load_problems
from nemo_forking.evaluation.benchmarks.prompt import FIELDS, PromptTemplate
from nemo_forking.evaluation.benchmarks.provenance import describe_files
from nemo_forking.evaluation.benchmarks.sources import Declared, Source, locate
from nemo_forking.files import file_hash
from nemo_forking.rl.prompts.choose import choose
from nemo_forking.rl.prompts.clean import CleanReport, clean
from nemo_forking.rl.prompts.prompt import Prompt
from nemo_forking.rl.prompts.read import Reading, read_prompts
from nemo_forking.rl.prompts.show import print_reading

if TYPE_CHECKING:
    from nemo_forking.config import Config
    from nemo_forking.config.evaluation import BenchmarkConfig
    from nemo_forking.config.policy import PromptsConfig

PROMPTS, REPORT = "prompts.jsonl", "report.json"
FORMAT = 1  # raised when the same files and settings give other prompts
COLUMNS = ("id", "prompt", "text", "gold", "kind", "answer")
RECIPE = "recipes/prepare_prompts.py"


def prepare_prompts(config: Config) -> Path:
    """Prepares `prompts.folder`: reads, removes repetitions and questions of `benchmarks`, draws, writes, reports.

    A folder made from the same files with the same settings is left as it is; one made from others is refused.

    Returns:
        The folder, which is there whole or not at all.

    Raises:
        UserError: a source, a benchmark's source, a row or a template is not as it should be, too few prompts are left,
            or the folder holds something else; the message names key, or file and line, and remedy.
    """
    console, folder = Console(), Path(config.prompts.folder)
    templates = _templates(config.prompts)
    source = _source(config.prompts)
    sets = {name: _evaluation_source(name, benchmark) for name, benchmark in config.benchmarks.items()}
    inputs = _inputs(config, source, sets)
    if _is_current(folder, inputs):
        console.print("Up to date: the same files were prepared with the same settings before.")
        return folder
    with written_aside(folder, REPORT, "prompts.folder") as aside:
        strict = config.data.strict
        reading = read_prompts(source, config.prompts.shape, templates, strict=strict, progress="Reading prompts")
        print_reading(console, reading)
        kept, cleaning = clean(reading.prompts, _evaluations(config), progress="Looking for evaluation questions")
        cleaning.print(console)
        if not sets:
            console.print("benchmarks is empty: no evaluation set was looked for in the prompts.", style="bold yellow")
        drawn = choose(kept, config.prompts.count, config.prompts.seed)
        _write(aside, drawn, {"inputs": inputs, "files": _files(source, sets)}, reading, cleaning)
    answers = ", ".join(f"{count:,} {answer}" for answer, count in _answers(drawn).items())
    console.print(f"{len(drawn):,} prompts drawn of {len(kept):,}: {answers}")
    return folder


def load_prompts(folder: str | Path) -> tuple[list[Prompt], str]:
    """The prompts of a prepared folder in the order drawn, and the SHA-256 of prompts.jsonl.

    Raises:
        UserError: there is no such folder, or it is damaged.
    """
    folder = Path(folder)
    path, sha256 = folder / PROMPTS, _report(folder)["sha256"]
    try:
        if file_hash(path) != sha256:
            raise UserError(f"{path}: changed since it was written; {_again(folder)}")
        with path.open("rb") as lines:
            return [Prompt(**json.loads(line)) for line in lines], sha256
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error}; {_again(folder)}") from None


def check_settings(config: Config) -> None:
    """Look whether `prompts.folder` was made with these settings, whatever became of the files it was made from.

    Raises:
        UserError: it was made with others; or as `load_prompts`.
    """
    folder = Path(config.prompts.folder)
    before = {key: _without_files(value) for key, value in _report(folder)["inputs"].items()}
    del before["prompts.source"]
    _refuse_other(folder, before, _settings(config))


def _report(folder: Path) -> dict[str, Any]:
    if not (folder / REPORT).is_file():
        raise UserError(f"{folder}: no prepared prompts (there is no {REPORT}); run {RECIPE}, or set prompts.folder")
    try:
        report = json.loads((folder / REPORT).read_text(encoding="utf-8"))
        version, _ = report["inputs"]["format"], report["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder / REPORT}: damaged ({error!r}); {_again(folder)}") from None
    if version != FORMAT:
        raise UserError(f"{folder}: of format {version}, this version reads {FORMAT}; {_again(folder)}")
    return report


def _again(folder: Path) -> str:
    return f"remove {folder} and run {RECIPE} again"


# ---------------------------------------------------------------- what goes in


def _templates(prompts: PromptsConfig) -> dict[str, PromptTemplate]:
    unknown = [answer for answer in prompts.templates if answer not in FIELDS]
    if unknown:
        raise UserError(f"prompts.templates.{unknown[0]}: no such kind of answer; there are math, code and many_ways")
    return {
        answer: PromptTemplate(text, answer, f"prompts.templates.{answer}")
        for answer, text in prompts.templates.items()
    }


def _source(prompts: PromptsConfig) -> Source:
    """The files of all sources, as one."""
    if not prompts.source:
        raise UserError("prompts.source is empty; name files, or one data set of the Hugging Face hub")
    answer = "many_ways" if "many_ways" in prompts.templates else "math"
    found = [locate("prompts", Declared(source, answer)) for source in prompts.source]
    return Source(
        tuple(file for each in found for file in each.files),
        tuple(name for each in found for name in each.names),
        ", ".join(each.commit for each in found if each.commit) or None,
    )


def _evaluation_source(name: str, benchmark: BenchmarkConfig) -> Source:
    try:
        return locate(f"benchmarks.{name}", benchmark)
    except UserError as error:
        raise UserError(
            f"{error}. Prompts are checked against every benchmark; leave {name} out of benchmarks=[...] only where "
            "nothing will be evaluated on it"
        ) from None


def _evaluations(config: Config) -> dict[str, list[Problem]]:
    """All questions of the benchmarks, also those that an evaluation of fewer leaves out."""
    return {
        name: load_problems(name, replace(benchmark, max_questions=None))
        for name, benchmark in config.benchmarks.items()
    }


# ---------------------------------------------------------------- whether it is there already


def _inputs(config: Config, source: Source, sets: Mapping[str, Source]) -> dict[str, Any]:
    """Everything the folder depends on, by configuration key; files by their content, wherever they lie."""
    inputs = _settings(config) | {"prompts.source": _hashes(source)}
    for name, found in sets.items():
        inputs[f"benchmarks.{name}"] |= {"sha256": _hashes(found)}
    return inputs


def _settings(config: Config) -> dict[str, Any]:
    prompts = config.prompts
    settings = {
        "format": FORMAT,
        "prompts.shape": prompts.shape,
        "prompts.templates": dict(prompts.templates),
        "prompts.count": prompts.count,
        "prompts.seed": prompts.seed,
        "data.strict": config.data.strict,
        "benchmarks": sorted(config.benchmarks),
    }
    for name, benchmark in config.benchmarks.items():
        window = [benchmark.from_date, benchmark.to_date]
        settings[f"benchmarks.{name}"] = {"window": window, "answer": benchmark.answer}
    return settings


def _without_files(value: Any) -> Any:
    return {key: kept for key, kept in value.items() if key != "sha256"} if isinstance(value, dict) else value


def _is_current(folder: Path, inputs: Mapping[str, Any]) -> bool:
    """Whether the folder was made from these inputs; UserError where it was made from others, or is damaged."""
    if not (folder / REPORT).is_file():
        return False
    load_prompts(folder)
    _refuse_other(folder, _report(folder)["inputs"], inputs)
    return True


def _refuse_other(folder: Path, before: Mapping[str, Any], inputs: Mapping[str, Any]) -> None:
    if other := sorted(key for key in {*before, *inputs} if before.get(key) != inputs.get(key)):
        raise UserError(
            f"{folder}: prepared before, with other {', '.join(other)}; remove the folder to prepare it anew, or set "
            "prompts.folder"
        )


def _hashes(source: Source) -> list[str]:
    return [file["sha256"] for file in describe_files(source)]


# ---------------------------------------------------------------- what comes out


def _write(folder: Path, drawn: list[Prompt], origin: dict, reading: Reading, cleaning: CleanReport) -> None:
    with (folder / PROMPTS).open("w", encoding="utf-8") as file:
        for prompt in drawn:
            line = {column: getattr(prompt, column) for column in COLUMNS}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    report = {
        "sha256": file_hash(folder / PROMPTS),
        **origin,
        "reading": reading.summary(),
        "cleaning": asdict(cleaning),
        "drawn": {"prompts": len(drawn), "answers": _answers(drawn), "kinds": _counts(p.kind for p in drawn)},
    }
    (folder / REPORT).write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _files(source: Source, sets: Mapping[str, Source]) -> dict[str, Any]:
    named = {"prompts": source} | {f"benchmarks.{name}": files for name, files in sets.items()}
    return {name: {"commit": each.commit, "files": describe_files(each)} for name, each in named.items()}


def _answers(prompts: list[Prompt]) -> dict[str, int]:
    return _counts(prompt.answer for prompt in prompts)


def _counts(values) -> dict[str, int]:
    return dict(sorted(Counter(values).items()))
