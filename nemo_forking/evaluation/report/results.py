"""results.json of a study or an evaluation, read and checked into one form: benchmarks, systems on them, runs.

A study (recipes/reproduce.py) has "rules": {rule: [row, one per seed]} and "base", all on one benchmark. An evaluation
(recipes/evaluate.py) has "benchmarks": {name: {"systems": {system: [row, ...]}, "describe": {...}}}. A row is what
`metrics.summarise` returns, with paths relative to the folder. Every key of a row may be missing: older runs lack some.

A study with reinforced models names them in "policy_names": [name, ...], each of which is a key, {name: [what
`policy.policy_rows` returns, one per seed]}. How they were measured is in "policies": {system: [row, ...]}: the system
of a policy's name draws its own tags; <policy>_every and <rule>_own are the same models asked otherwise.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from nemo_forking.errors import UserError
from nemo_forking.evaluation.training_log import load_training

RULES = ("optimal", "random", "fixed", "mixed")  # the order of tables and plots; other names follow
BASE = "base"
HELD_OUT = "many_ways"  # the benchmark of a study


@dataclass(frozen=True)
class System:
    """One model as it was asked on one benchmark: a row per seed."""

    name: str
    runs: list[dict]

    @property
    def first(self) -> dict:
        """The row of the first seed."""
        return self.runs[0]

    @property
    def slots(self) -> int:
        """Samples of a question in one round, N; 0 where unknown."""
        return int(number(self.first.get("tags")) or len(self.per_tag))

    @property
    def per_tag(self) -> list[dict]:
        """The first seed's figures of every tag, or of every slot of a model without tags."""
        return self.first.get("per_tag") or []

    @property
    def place(self) -> str:
        """What `per_tag` counts."""
        return "slot" if self.first.get("tags_mode") in ("one", "none") else "tag"


@dataclass(frozen=True)
class Benchmark:
    """The systems measured on one benchmark, and where its questions come from."""

    name: str
    systems: list[System]
    describe: dict

    @property
    def questions(self) -> int | None:
        """How many questions were asked; None where unknown."""
        found = self.systems[0].first.get("questions") or self.describe.get("questions")
        return int(found) if number(found) is not None else None


@dataclass(frozen=True)
class Results:
    """All of results.json; paths in rows are relative to the folder it lies in.

    Attributes:
        policies: what is told of each reinforced model, a row per seed.
        variants: system -> the system that is the same model, asked otherwise.
    """

    title: str
    study: bool
    benchmarks: list[Benchmark]
    comparisons: list[dict]
    published: dict[str, str]  # system -> row of the paper's tables
    seconds: dict
    provenance: dict
    policies: list[System] = field(default_factory=list)
    variants: dict[str, str] = field(default_factory=dict)

    @property
    def models(self) -> list[Benchmark]:
        """The benchmarks with every model once: without its variants."""
        return self._without(lambda system: system.name in self.variants)

    @property
    def by_tag(self) -> list[Benchmark]:
        """The benchmarks for plots by tag: a model that was asked under every tag as well is left out as it was not."""
        several = {*self.variants, *self.variants.values()}
        return self._without(lambda system: system.first.get("tags_mode") == "own" and system.name in several)

    def _without(self, left_out: Callable[[System], bool]) -> list[Benchmark]:
        kept = [replace(b, systems=[s for s in b.systems if not left_out(s)]) for b in self.benchmarks]
        return [benchmark for benchmark in kept if benchmark.systems]

    @property
    def systems(self) -> list[str]:
        """Every system's name, in the order of the tables."""
        measured = [system for benchmark in self.benchmarks for system in benchmark.systems]
        return list(dict.fromkeys(system.name for system in [*measured, *self.policies]))

    @property
    def seeds(self) -> int:
        """The most seeds any system has."""
        return max(len(system.runs) for benchmark in self.benchmarks for system in benchmark.systems)


def load(folder: Path) -> Results:
    """results.json of a run folder; UserError where it is missing or damaged."""
    path = folder / "results.json"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: not there; the run is not finished: run its recipe again") from None
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); remove it and run its recipe again") from None
    return parse(raw, str(path), folder.resolve().name)


def parse(raw: Any, where: str = "results", title: str = "run") -> Results:
    """The one form of either layout.

    Raises:
        UserError: neither layout; names the field.
    """
    if not isinstance(raw, dict) or not (raw.get("benchmarks") or raw.get("rules")):
        raise UserError(f"{where}: fields 'rules' and 'benchmarks' are missing or empty; run its recipe again")
    study = not raw.get("benchmarks")
    return Results(
        title=str(raw.get("experiment") or title),
        study=study,
        benchmarks=[_held_out(raw, where)] if study else _benchmarks(raw, where),
        comparisons=[one for one in _kind(list, raw, "comparisons", where) if isinstance(one, dict)],
        published={k: v for k, v in _kind(dict, raw, "published", where).items() if isinstance(v, str)},
        seconds=_kind(dict, raw, "seconds", where),
        provenance=_kind(dict, raw, "provenance", where),
        policies=[System(name, _rows(raw.get(name), name, where)) for name in _policy_names(raw, where)],
        variants=_variants(raw, where),
    )


def training_curves(results: Results, folder: Path) -> dict[str, list[list[dict]]]:
    """The lines of every model's training metrics, a list per seed; models without any are left out.

    Raises:
        UserError: a line is no JSON object.
    """
    curves: dict[str, list[list[dict]]] = {}
    for system in [system for benchmark in results.models for system in benchmark.systems] + results.policies:
        if system.name not in curves:
            files = [folder / run["metrics"] for run in system.runs if isinstance(run.get("metrics"), str)]
            found = [load_training(file) for file in files]
            if any(found):
                curves[system.name] = found
    return curves


def of_policies(curves: dict[str, list[list[dict]]], wanted: bool = True) -> dict[str, list[list[dict]]]:
    """The curves of reinforced models, which have rewards, or those of all others."""
    return {name: runs for name, runs in curves.items() if any("reward" in line for line in chain(*runs)) == wanted}


# ---------------------------------------------------------------- numbers


def number(value: Any) -> float | None:
    """A finite number as it is; None for anything else."""
    known = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return value if known else None


def dig(tree: Any, *path: Any) -> Any:
    """A value deep in dictionaries; None where the way there ends."""
    for step in path:
        tree = tree.get(step) if isinstance(tree, dict) else None
    return tree


def metric(key: str) -> Callable[[dict], tuple[float | None, float | None]]:
    """Reads a metric and its standard error from a row."""
    return lambda run: (number(run.get(key)), number(dig(run, "standard_error", key)))


def over_seeds(
    system: System, read: Callable[[dict], tuple[float | None, float | None]]
) -> tuple[float | None, float | None]:
    """Mean over seeds and its standard error; of a single seed, the standard error over questions (None if unknown)."""
    found = [(value, error) for value, error in map(read, system.runs) if value is not None]
    if not found:
        return None, None
    if len(found) == 1:
        return found[0]
    values = [value for value, _ in found]
    return float(np.mean(values)), float(np.std(values, ddof=1) / np.sqrt(len(values)))


def rate(system: System, key: str) -> tuple[float | None, float | None]:
    """A metric and its error over seeds. A model that draws its own tags has no best one: each had other questions."""
    if key == "best_tag_pass@1" and system.first.get("tags_mode") == "own":
        return None, None
    return over_seeds(system, metric(key))


# ---------------------------------------------------------------- checks


def _held_out(raw: dict, where: str) -> Benchmark:
    """A study's only benchmark: the rules in their fixed order, the policies, the base model; variants come last."""
    rules = _kind(dict, raw, "rules", where)
    order = [*(rule for rule in RULES if rule in rules), *(rule for rule in rules if rule not in RULES)]
    systems = [System(rule, _rows(rules[rule], f"rules.{rule}", where)) for rule in order]
    policies = _kind(dict, raw, "policies", where)
    systems += [System(name, _rows(rows, f"policies.{name}", where)) for name, rows in policies.items()]
    if raw.get(BASE):
        base = raw[BASE] if isinstance(raw[BASE], list) else [raw[BASE]]
        systems.append(System(BASE, _rows(base, BASE, where)))
    variants = _variants(raw, where)
    systems.sort(key=lambda system: system.name in variants)
    name = systems[0].first.get("benchmark")
    return Benchmark(name if isinstance(name, str) else HELD_OUT, systems, _kind(dict, raw, "benchmark", where))


def _policy_names(raw: dict, where: str) -> list[str]:
    return [str(name) for name in _kind(list, raw, "policy_names", where)] if not raw.get("benchmarks") else []


def _variants(raw: dict, where: str) -> dict[str, str]:
    """A study's systems that are one of its models, asked otherwise than under the model's own name."""
    models = {*_kind(dict, raw, "rules", where), *_policy_names(raw, where)}
    measured = _kind(dict, raw, "policies", where)
    found = {name: re.sub("_(own|every)$", "", name) for name in measured if name not in models}
    return {name: model for name, model in found.items() if model in models}


def _benchmarks(raw: dict, where: str) -> list[Benchmark]:
    found = []
    for name, one in _kind(dict, raw, "benchmarks", where).items():
        rows = _kind(dict, one if isinstance(one, dict) else {}, "systems", where, f"benchmarks.{name}.systems")
        if not rows:
            raise UserError(f"{where}: field 'benchmarks.{name}.systems' is missing or empty; run its recipe again")
        systems = [
            System(system, _rows(runs, f"benchmarks.{name}.systems.{system}", where)) for system, runs in rows.items()
        ]
        found.append(Benchmark(name, systems, _kind(dict, one, "describe", where, f"benchmarks.{name}.describe")))
    return found


def _rows(rows: Any, field: str, where: str) -> list[dict]:
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{where}: field '{field}' is not a list of rows; run its recipe again")
    return rows


def _kind(kind: type, raw: dict, name: str, where: str, field: str | None = None) -> Any:
    """A field that may be missing or null, but is of its kind where it is there."""
    value = raw.get(name)
    if value is None:
        return kind()
    if not isinstance(value, kind):
        wanted = {dict: "an object", list: "a list"}[kind]
        raise UserError(f"{where}: field '{field or name}' is not {wanted}; run its recipe again")
    return value
