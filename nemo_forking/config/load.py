"""From a command line, or a mapping, to a checked `Config`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nemo_forking.config.build import Builder
from nemo_forking.config.checks import problems
from nemo_forking.config.compose import CONF, compose_values, groups
from nemo_forking.config.marks import Mark
from nemo_forking.config.schema import Config, Resolved
from nemo_forking.config.written import key_of
from nemo_forking.errors import UserError


def load(overrides: Sequence[str] = (), *, experiment: str | None = None, conf: Path = CONF) -> Config:
    """The configuration a command line means.

    Args:
        overrides: Hydra's `group=file` and `key=value`.
        experiment: file of conf/experiment taken where the command line names none.
        conf: folder of YAML files.

    Raises:
        UserError: anything unknown, missing, of the wrong type, out of range, or in conflict; all problems at once.
    """
    overrides = tuple(with_experiment(overrides, experiment))
    composition = compose_values(overrides, conf)
    config = build(composition.values, composition.where, list(groups(conf)))
    marks = {key: str(mark) for key, mark in composition.marks.items()}
    return Resolved(**_blocks(config), marks=marks, overrides=overrides)


def build(values: Mapping[str, Any], where: Callable[[str], str] = lambda key: "configuration", known=()) -> Config:
    """A checked configuration from nested plain values.

    Args:
        values: one mapping per block, as in a resolved config.yaml.
        where: dotted key -> the place it was set, for messages.
        known: names of configuration groups, which a mistyped key may mean.
    """
    builder = Builder(Config, where, known)
    config = builder.build(values)
    _raise_if(builder.problems)
    _raise_if(problems(config))
    return config


def with_overrides(config: Config, changes: Mapping[str, Any]) -> Config:
    """The same configuration with some keys changed, checked anew.

    Args:
        config: a loaded configuration.
        changes: dotted key -> plain value, `{"matching.rule": "random", "run.folder": "runs/x"}`.
    """
    values = plain_values(config)
    for key, value in changes.items():
        *blocks, last = key.split(".")
        place = values
        for block in blocks:
            place = place.get(block) if isinstance(place, dict) else None
        if not isinstance(place, dict):
            raise UserError(f"{key} cannot be changed: {'.'.join(blocks)} is not a block of keys")
        place[last] = value
    changed = build(values, lambda key: "recipe")
    marks = getattr(config, "marks", {}) | {key: "set by the recipe" for key in changes}
    return Resolved(**_blocks(changed), marks=marks, overrides=getattr(config, "overrides", ()))


def plain_values(config: Config) -> dict[str, Any]:
    """The configuration as nested plain values, one for every block."""
    return {name: value for name, value in dataclasses.asdict(config).items() if name in _blocks(config)}


def provenance(overrides: Sequence[str] = (), conf: Path = CONF) -> dict[str, Mark]:
    """Dotted key -> where the value comes from, for every key that a YAML file or the command line sets."""
    return compose_values(overrides, conf).marks


def with_experiment(overrides: Sequence[str], experiment: str | None) -> list[str]:
    """The overrides, with a default experiment in front where they name none."""
    named = "experiment" in map(key_of, overrides)
    return list(overrides) if named or experiment is None else [f"experiment={experiment}", *overrides]


def _blocks(config: Config) -> dict[str, Any]:
    return {field.name: getattr(config, field.name) for field in dataclasses.fields(Config)}


def _raise_if(found: list[str]) -> None:
    if len(found) == 1:
        raise UserError(found[0])
    if found:
        raise UserError("\n".join([f"{len(found)} problems in the configuration:", *(f"  {line}" for line in found)]))
