"""The front door of every recipe: Hydra's override syntax, `--help`, `--cfg job`, and errors without a traceback.

    @recipe(experiment="tiny")
    def main(config):
        '''What this recipe does.'''

    if __name__ == "__main__":
        main()

Hydra composes the configuration; NeMo's `hydra_runner` is not used, because importing NeMo takes 17 to 30 seconds and
`--help` or a mistyped key should answer at once. A recipe imports NeMo inside its function.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nemo_forking.config.compose import CONF, compose_values, groups
from nemo_forking.config.fields import blocks_of, describe, help_lines, hints, nested
from nemo_forking.config.load import load, with_experiment
from nemo_forking.config.record import resolved_yaml
from nemo_forking.config.schema import Config
from nemo_forking.errors import AGAIN, GIVE_UP, GivenUp, Stopped, UserError

Recipe = Callable[[Config], Any]
Switches = Mapping[str, tuple[str | None, str]]
SWITCHES = {  # switch -> (override it stands for, help)
    "--help": (None, "this text, with the values the command line means"),
    "--cfg job": (None, "print the resolved configuration as YAML, each value with its origin, and stop"),
    "--strict": ("data.strict=true", "stop at the first problem in the data: short for data.strict=true"),
}


def recipe(
    *, experiment: str | None = None, conf: Path = CONF, switches: Mapping[str, tuple[str, str]] | None = None
) -> Callable[[Recipe], Callable[..., int]]:
    """Turns `function(config)` into a command; SIGTERM and SIGUSR1 end it with `Stopped`.

    Args:
        experiment: file of conf/experiment taken where the command line names none.
        conf: folder of YAML files.
        switches: the recipe's own, like those of `SWITCHES`.

    Returns:
        A decorator. The command takes a list of arguments and returns the exit status: 0, 2 after a `UserError`, whose
        message it prints, 70 after `GivenUp`, or 75 after `Stopped`. Without a list it takes the process's arguments
        and exits with any status but 0.
    """
    known = SWITCHES | dict(switches or {})

    def decorate(function: Recipe) -> Callable[..., int]:
        @functools.wraps(function)
        def command(argv: Sequence[str] | None = None) -> int:
            if argv is None:
                for number in (signal.SIGTERM, signal.SIGUSR1):
                    signal.signal(number, _stop)
            status = _run(function, sys.argv[1:] if argv is None else argv, experiment, conf, known)
            if argv is None and status:
                sys.exit(status)
            return status

        return command

    return decorate


main = recipe()
"""The decorator for a recipe without an experiment of its own."""


def _run(function: Recipe, argv: Sequence[str], experiment: str | None, conf: Path, switches: Switches) -> int:
    try:
        overrides, wish = _split(argv, switches)
        overrides = with_experiment(overrides, experiment)
        if wish == "help":
            print(help_text(function, overrides, conf, switches))
            return 0
        config = load(overrides, conf=conf)
        if wish == "cfg":
            print(resolved_yaml(config), end="")
        else:
            function(config)
        return 0
    except UserError as error:
        print(_red(f"error: {error}"), file=sys.stderr)
        return 2
    except GivenUp as error:
        print(_red(f"error: {error}"), file=sys.stderr)
        return GIVE_UP
    except Stopped as stopped:
        print(f"stopped: {stopped}", file=sys.stderr)
        return AGAIN


def _stop(number: int, frame: object) -> None:
    raise Stopped(f"ended by {signal.Signals(number).name}; the same command goes on with what is complete")


def _split(argv: Sequence[str], switches: Switches = SWITCHES) -> tuple[list[str], str]:
    """The overrides, and what is wished instead of a run: "help", "cfg" or nothing."""
    overrides, wish = [], ""
    words = iter(argv)
    for word in words:
        if word in ("-h", "--help"):
            wish = "help"
        elif word in ("-c", "--cfg") or word.startswith("--cfg="):
            what = word.partition("=")[2] or next(words, "")
            if what != "job":
                raise UserError(f"command line: --cfg takes the word job, not {what!r}")
            wish = wish or "cfg"
        elif word.startswith("-"):
            if word not in switches:
                raise UserError(
                    f"command line: unknown switch {word}; there are {', '.join(switches)}, and settings as key=value"
                )
            overrides.append(switches[word][0])
        else:
            overrides.append(word)
    return overrides, wish


def help_text(
    function: Callable[..., Any], overrides: Sequence[str], conf: Path = CONF, switches: Switches = SWITCHES
) -> str:
    """What the recipe does, the groups with their files, and every key with its value, type and meaning."""
    composition = compose_values(overrides, conf)
    script = Path(inspect.getsourcefile(function) or "recipe.py").name
    about = inspect.getdoc(function) or inspect.getdoc(inspect.getmodule(function)) or ""
    lines = [about, "", f"usage: python recipes/{script} [group=file ...] [key=value ...]", ""]
    lines += [f"  {switch:<12} {text}" for switch, (_, text) in switches.items()]
    lines += ["", "Groups (* chosen now):"]
    for group, names in groups(conf).items():
        chosen = composition.choices[group]
        lines.append(f"  {group:<12} " + " ".join(f"{name}*" if name in chosen else name for name in names))
    lines += ["", "Keys, with the values this command line means:"]
    lines += _key_lines(Config, composition.values, "")
    return "\n".join(lines)


def _key_lines(schema: type, values: Any, prefix: str) -> list[str]:
    lines, helps, annotations = [], help_lines(schema), hints(schema)
    for field in dataclasses.fields(schema):
        path, annotation = prefix + field.name, annotations[field.name]
        value = values.get(field.name, _default(field)) if isinstance(values, Mapping) else _default(field)
        block = nested(annotation)
        if block and value is not None:
            first = (inspect.getdoc(block) or "").splitlines()[:1]
            lines += ["" if not prefix else f"  # {path}", *([f"  # {first[0]}"] if first and not prefix else [])]
            lines += _key_lines(block, value, f"{path}.")
        elif isinstance(value, Mapping) and (blocks := blocks_of(annotation)):
            lines += ["", f"  # {helps[field.name]}"]
            for name, inner in value.items():
                lines += _key_lines(blocks[1], inner, f"{path}.{name}.")
        else:
            expected = describe(annotation, field.metadata.get("bounds"))
            named = value.items() if isinstance(value, Mapping) and value else [("", value)]
            for name, inner in named:
                shown = "null" if inner is None else str(inner).lower() if isinstance(inner, bool) else inner
                setting = f"{path}.{name}={shown}" if name else f"{path}={shown}"
                lines.append(f"  {setting:<44} {helps[field.name]} ({expected})")
    return lines


def _default(field: dataclasses.Field) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else "???"


def _red(text: str) -> str:
    return f"\x1b[31m{text}\x1b[0m" if sys.stderr.isatty() else text
