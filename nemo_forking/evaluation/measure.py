"""One measurement from prompt to metrics: sample a system on a benchmark, grade, summarise.

Shape letters: N tags.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from nemo_forking.config import Config
from nemo_forking.config.evaluation import BenchmarkConfig, SystemConfig
from nemo_forking.config.record import versions
from nemo_forking.data.encoding import load_tokenizer
from nemo_forking.data.prompt import CHAT, PromptFormat
from nemo_forking.engines import Engine, open_engine
from nemo_forking.engines.folder import model_config
from nemo_forking.errors import UserError
from nemo_forking.evaluation.benchmarks import Problem, describe, load_problems
from nemo_forking.evaluation.convergence import convergence, coverage
from nemo_forking.evaluation.folder import METRICS, load_joined, write_questions
from nemo_forking.evaluation.grading import grade_samples
from nemo_forking.evaluation.metrics import summarise
from nemo_forking.evaluation.sampling import SamplingSettings, TagChoice, draw_samples, weights_hash
from nemo_forking.evaluation.training_log import load_training
from nemo_forking.files import write_aside
from nemo_forking.rewards import open_grader
from nemo_forking.tags import make_tags, tag_text
from nemo_forking.tasks import many_ways
from nemo_forking.weight_files import tensor_entries

TAG = re.compile(r"<think\d+>")  # what `tags.tag_text` spells
ROUTES = {"many_ways": many_ways.route}  # kind of answer -> parser of the route a completion takes


class System:
    """A model under evaluation: tokenizer, tags and prompts at once, weights and engine when they are needed.

    Args:
        config: the evaluation's configuration.
        settings: which model, and how it is asked.

    Raises:
        UserError: the model's folder has no weights or no usable tokenizer, the tags do not fit its vocabulary, or
            the training run is not where it is said to be.
    """

    def __init__(self, config: Config, settings: SystemConfig) -> None:
        self.config, self.settings = config, settings
        self.model = Path(settings.model)
        rows = _vocabulary_rows(self.model)
        tensor_entries(self.model)  # whole
        self.tokenizer = load_tokenizer(self.model)
        tags = None
        if settings.tags != "none" or tag_text(0) in self.tokenizer.get_added_vocab():
            tags = make_tags(self.tokenizer, config.tags.spelling, config.tags.count, vocabulary_rows=rows)
        self.choice = TagChoice(settings.tags, config.tags.count, tags, settings.one_tag)
        self.banned = {*range(len(self.tokenizer), rows)}  # rows without a token, and, mid-text, the tags
        self.banned.update(id for word, id in self.tokenizer.get_added_vocab().items() if TAG.fullmatch(word))
        self.stop = tuple(sorted({self.tokenizer.eos_token_id, *_end_tokens(self.model)} - {None}))
        prompt = config.data.prompt if settings.prompt is None else settings.prompt
        system = config.data.system if settings.prompt in (None, CHAT) else None
        self.form = PromptFormat(self.tokenizer, prompt, config.data.target, system)
        self.metrics_file = _metrics_file(settings)
        self._engine: Engine | None = None

    def engine(self) -> Engine:
        """The engine, opened at the first call."""
        if self._engine is None:
            self._engine = open_engine(self.config.engine, self.model, banned=sorted(self.banned))
        return self._engine

    @cached_property
    def weights(self) -> str:
        """Hash of the weights."""
        return weights_hash(self.model)

    @cached_property
    def training(self) -> list[dict]:
        """Lines of the training run's metrics.jsonl; none where the run is unknown."""
        return [] if self.metrics_file is None else load_training(self.metrics_file)

    def __enter__(self) -> System:
        return self

    def __exit__(self, *error: object) -> None:
        if self._engine is not None:
            self._engine.close()


@dataclass(frozen=True)
class Asked:
    """A benchmark's problems and where they come from."""

    name: str
    problems: tuple[Problem, ...]
    described: dict

    @classmethod
    def load(cls, name: str, benchmark: BenchmarkConfig) -> Asked:
        """Reads the benchmark; UserError names what is wrong with its source."""
        problems = load_problems(name, benchmark)
        return cls(name, tuple(problems), describe(name, benchmark, problems))


def measure(system: System, asked: Asked, temperature: float, folder: Path) -> dict:
    """Samples, verdicts and metrics of a system on a benchmark, in `folder`; what is there already is kept.

    Args:
        system: the model, asked as its settings say.
        asked: the benchmark.
        temperature: of sampling; 0 is greedy.
        folder: the measurement's folder.

    Returns:
        `metrics.summarise`'s row, with "benchmark", "system", "temperature" and "tags_mode".

    Raises:
        UserError: the folder holds other samples, the engine or the grader cannot work.
    """
    config, settings, problems = system.config, system.settings, asked.problems
    benchmark = config.benchmarks[asked.name]
    label = f"{asked.name}, {settings.name}" + (
        f" at {temperature:g}" if len(config.evaluation.temperatures) > 1 else ""
    )
    draw_samples(
        system.engine,
        dict(zip((p.id for p in problems), system.form.prompts([p.prompt for p in problems]), strict=True)),
        system.choice,
        SamplingSettings(
            rounds=benchmark.rounds,
            max_tokens=config.evaluation.max_tokens,
            stop=system.stop,
            temperature=temperature,
            top_p=config.evaluation.top_p,
            seed=settings.seed,
        ),
        system.tokenizer.decode,
        folder,
        identity={"weights": system.weights, "max_length": config.engine.max_length},
        provenance={
            "model": settings.model,
            "benchmark": asked.described,
            "chat_template": system.form.prompt_text,
            "chat_template_sha256": hashlib.sha256(system.form.prompt_text.encode()).hexdigest(),
            "versions": versions(),
        },
        progress=f"Sampling {label}",
    )
    write_questions(folder, [_readable(problem) for problem in problems])
    grade_samples(
        lambda: open_grader(benchmark.answer, config.evaluation.grading),
        {problem.id: problem.gold for problem in problems},
        folder,
        route=ROUTES.get(benchmark.answer),
        progress=f"Grading {label}",
    )
    row = summarise(
        load_joined(folder),
        system.choice.slots,
        seed=settings.seed,
        coverage_N=coverage(system.training),
        tags_mode=settings.tags,
        votes=benchmark.answer != "code",
    )
    row |= {"benchmark": asked.name, "system": settings.name, "temperature": temperature}
    if system.training:
        row["convergence"] = convergence(system.training)
    write_aside(folder / METRICS, json.dumps(row, indent=1) + "\n")
    return row


def _readable(problem: Problem) -> dict:
    gold = problem.gold if isinstance(problem.gold, str) else "tests"
    return {"id": problem.id, "asked": problem.text, "kind": problem.kind, "gold": gold}


def _vocabulary_rows(folder: Path) -> int:
    """Rows of the model's embedding."""
    rows = model_config(folder).get("vocab_size")
    if not isinstance(rows, int):
        raise UserError(f"{folder / 'config.json'}: vocab_size is {rows!r}; expected the rows of its embedding")
    return rows


def _end_tokens(folder: Path) -> list[int]:
    """End tokens that generation_config.json names."""
    file = folder / "generation_config.json"
    try:
        found = json.loads(file.read_text(encoding="utf-8")).get("eos_token_id") if file.is_file() else None
    except (ValueError, AttributeError) as error:
        raise UserError(f"{file}: not a JSON object ({error}); mend it or remove it") from None
    return found if isinstance(found, list) else [] if found is None else [found]


def _metrics_file(settings: SystemConfig) -> Path | None:
    """The training run's metrics.jsonl; None where no run is named."""
    if settings.run is None:
        return None
    file = Path(settings.run) / "metrics.jsonl"
    if not file.is_file():
        raise UserError(f"{file}: not there; {settings.name}'s run is the folder of its training run, or null")
    return file
