"""Hydra in: a command line of `key=value` overrides becomes one tree of plain values, each with its origin.

Hydra composes the groups (`model=tiny`, `layout=8xb200`); values (`optim.lr=1e-5`) are parsed by Hydra's own grammar
and laid over the result here, so that a mistyped key can be answered with the nearest one instead of Hydra's trace.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from nemo_forking.config.build import nearest
from nemo_forking.config.marks import COMMAND_LINE, Mark, marks_in
from nemo_forking.errors import UserError

CONF = Path(__file__).resolve().parents[2] / "conf"
SEVERAL = ("benchmarks",)  # groups of which several files are chosen at once, each a block under its own name
ROOT = "config"  # conf/config.yaml: the defaults list and every block that is not a group


@dataclass(frozen=True)
class Composition:
    """What the YAML files and the command line say together.

    Attributes:
        values: nested plain values, interpolations resolved.
        marks: dotted key -> origin, for every leaf.
        choices: group -> chosen files, as in `layout=8xb200` or `benchmarks=[aime24,math500]`.
    """

    values: dict[str, Any]
    marks: dict[str, Mark]
    choices: dict[str, tuple[str, ...]]

    def where(self, path: str) -> str:
        """The place that set a key, a block or the nearest thing around it."""
        for start in (path, *_parents(path)):
            for key, mark in self.marks.items():
                if key == start or key.startswith(f"{start}."):
                    return mark.place
        return "conf"


def groups(conf: Path = CONF) -> dict[str, list[str]]:
    """Group -> names of its files: the folders of conf/."""
    if not (conf / f"{ROOT}.yaml").is_file():
        raise UserError(f"{conf} holds no {ROOT}.yaml; run from a checkout, or install it with pip install -e")
    folders = sorted(folder for folder in conf.iterdir() if folder.is_dir())
    return {folder.name: sorted(file.stem for file in folder.glob("*.yaml")) for folder in folders}


def compose_values(overrides: Sequence[str], conf: Path = CONF) -> Composition:
    """Composes conf/ with a command line.

    Args:
        overrides: `group=file` and `key=value`, in Hydra's syntax; the last of two for one key wins.
        conf: folder of YAML files.

    Raises:
        UserError: an override cannot be read, a group has no such file, or a YAML file is broken.
    """
    known_groups = groups(conf)
    chosen, values = [], []
    for text in overrides:
        override = _parse(text)
        if override.key_or_group in known_groups and not isinstance(override.value(), Mapping):
            chosen.append(_group_choice(override, known_groups[override.key_or_group]))
        else:
            values.append(override)
    try:
        composed, files_marks, choices = _composed(tuple(chosen), conf, _stamp(conf))
        tree, marks = copy.deepcopy(composed), dict(files_marks)
        _refuse_unchosen(values, choices)
        _apply(tree, values, marks)
        plain = OmegaConf.to_container(tree, resolve=True, throw_on_missing=False)
        plain = {group: {} for group in SEVERAL} | plain  # [] chooses none of them
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(_broken_file(conf) or f"configuration: {_first_line(error)}") from error
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(f"configuration: {_first_line(error)}") from error
    return Composition(plain, marks, choices)


@cache
def _composed(
    chosen: tuple[str, ...], conf: Path, stamp: tuple
) -> tuple[DictConfig, dict[str, Mark], dict[str, tuple[str, ...]]]:
    """What the YAML files say when these are chosen of the groups; Hydra takes a quarter of a second for it.

    `stamp` is that of the files: a study of many stages composes them once, and a changed file is read again.
    """
    with initialize_config_dir(str(conf), version_base="1.3"):
        tree = compose(ROOT, list(chosen), return_hydra_config=True)
        loader = GlobalHydra.instance().config_loader()
        files = loader.compute_defaults_list(ROOT, list(chosen), RunMode.RUN).defaults
    OmegaConf.set_struct(tree, False)
    del tree["hydra"]
    marks: dict[str, Mark] = {}
    for file in files:
        if not file.config_path.startswith("hydra/") and file.config_path != "hydra/config":
            path = conf / f"{file.config_path}.yaml"
            if path.is_file():
                _lay(marks, marks_in(path, file.package or "", f"{conf.name}/{file.config_path}.yaml"))
    return tree, marks, {group: _files(files, group) for group in groups(conf)}


def _stamp(conf: Path) -> tuple[tuple[str, int, int], ...]:
    """Name, time and size of every YAML file."""
    found = ((str(file), file.stat()) for file in sorted(conf.rglob("*.yaml")))
    return tuple((name, about.st_mtime_ns, about.st_size) for name, about in found)


def _parse(text: str) -> Override:
    try:
        override = OverridesParser.create().parse_override(text)
    except HydraException as error:
        why = f"{_first_line(error)}; values with signs of the command line's own stand in quotes: \"key='a#b'\""
        raise UserError(f"command line: cannot read {text!r}; write key=value ({why})") from error
    if not override.key_or_group:
        raise UserError(f"command line: cannot read {text!r}; write key=value")
    if override.is_add() or override.is_force_add() or override.is_delete():
        raise UserError(f"command line: {text!r}: the set of keys is fixed, write key=value without + or ~")
    if override.is_sweep_override():
        raise UserError(f"command line: {text!r} is a sweep; give one value (a list is written [a,b])")
    if override.package is not None:
        raise UserError(f"command line: {text!r}: group@package is not supported, write group=name")
    return override


def _group_choice(override: Override, names: Iterable[str]) -> str:
    group, choice = override.key_or_group, override.value()
    if isinstance(choice, list) != (group in SEVERAL):
        raise UserError(f"command line: {group} takes {'a list: [one,another]' if group in SEVERAL else 'one name'}")
    for name in _names(choice):
        if name not in names:
            suggestion = nearest(name, names)
            shown = f"[{suggestion}]" if group in SEVERAL else suggestion
            hint = f"did you mean {group}={shown}? " if suggestion else ""
            raise UserError(f"command line: there is no {group}={name}; {hint}choose from {', '.join(names)}")
    return f"{group}=[{','.join(_names(choice))}]" if group in SEVERAL else f"{group}={choice or 'null'}"


def _names(choice: Any) -> tuple[str, ...]:
    """The files a group's choice names: none, one or several."""
    several = isinstance(choice, Sequence) and not isinstance(choice, str)
    return tuple(map(str, choice)) if several else () if choice is None else (str(choice),)


def _files(files: Iterable[Any], group: str) -> tuple[str, ...]:
    """The files of a group in Hydra's final list of defaults."""
    paths = [str(file.config_path) for file in files]
    return tuple(path.removeprefix(f"{group}/") for path in paths if path.startswith(f"{group}/"))


def _refuse_unchosen(overrides: Iterable[Override], choices: Mapping[str, tuple[str, ...]]) -> None:
    """A setting of a file that is not chosen is a mistake, not a new file."""
    for override in overrides:
        group, _, rest = override.key_or_group.partition(".")
        name = rest.partition(".")[0]
        if group in SEVERAL and name and name not in choices[group]:
            chosen = ",".join(choices[group])
            raise UserError(
                f"command line: {override.key_or_group} belongs to {name}, which is not among "
                f"{group}=[{chosen}]; choose it with {group}=[{name}]"
            )


def _apply(tree: DictConfig, overrides: Iterable[Override], marks: dict[str, Mark]) -> None:
    """Lays the values of a command line over the tree: a block is merged, everything else replaced."""
    for override in overrides:
        key, value = override.key_or_group.replace("/", "."), override.value()
        OmegaConf.update(tree, key, value, merge=True, force_add=True)
        _lay(marks, {leaf: Mark(COMMAND_LINE) for leaf in _leaves(key, value)})


def _leaves(key: str, value: Any) -> list[str]:
    if isinstance(value, Mapping) and value:
        return [leaf for name, inner in value.items() for leaf in _leaves(f"{key}.{name}", inner)]
    return [key]


def _lay(marks: dict[str, Mark], later: Mapping[str, Mark]) -> None:
    """Lays later marks over earlier ones; a block set as a whole forgets the marks inside it, and vice versa."""
    for key, mark in later.items():
        for stale in [other for other in marks if other.startswith(f"{key}.") or key.startswith(f"{other}.")]:
            del marks[stale]
        marks[key] = mark


def _broken_file(conf: Path) -> str | None:
    """The first file that is not YAML: the parser's own error does not always name it."""
    for file in sorted(conf.rglob("*.yaml")):
        try:
            yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            return f"{conf.name}/{file.relative_to(conf)}:{line}: {error.problem}"
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            return f"{conf.name}/{file.relative_to(conf)}: {_first_line(error)}"
    return None


def _parents(path: str) -> list[str]:
    parts = path.split(".")
    return [".".join(parts[:length]) for length in range(len(parts) - 1, 0, -1)]


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
