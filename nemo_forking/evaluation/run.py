"""A whole evaluation: every system on every benchmark at every temperature, and the systems beside each other.

Run again, it continues: finished measurements are read, an unfinished one goes on where it was.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from nemo_forking.config import Config
from nemo_forking.config.record import versions
from nemo_forking.errors import UserError
from nemo_forking.evaluation import published
from nemo_forking.evaluation.comparison import compare
from nemo_forking.evaluation.folder import SETTINGS, load_joined, measurement_folder
from nemo_forking.evaluation.measure import Asked, System, measure
from nemo_forking.files import write_aside
from nemo_forking.rewards import open_grader

NAME = re.compile(r"[^/\\\x00-\x1f\x7f]{1,100}")  # of a system: its folder's name begins so


def evaluate(config: Config) -> Iterator[Path]:
    """Writes results.json of evaluation.folder after every system, with all so far, and yields the folder.

    The next system may take hours, or not be served yet. Everything is looked at before anything is generated:
    benchmarks, models, graders.

    Raises:
        UserError: a benchmark's file, a model's folder, a grader or the engine is not as it should be.
    """
    check_systems(config)
    benchmarks = [Asked.load(name, benchmark) for name, benchmark in config.benchmarks.items()]
    systems = [System(config, settings) for settings in config.evaluation.systems]
    for answer in {benchmark.answer for benchmark in config.benchmarks.values()}:
        open_grader(answer, config.evaluation.grading).close()
    folder, began, rows = Path(config.evaluation.folder), time.monotonic(), []
    for system in systems:
        with system:
            rows += [_row(system, asked) for asked in benchmarks]
        results = results_of(config, rows, folder, {"this attempt": round(time.monotonic() - began, 1)})
        write_aside(folder / "results.json", json.dumps(results, indent=1))
        yield folder


def check_systems(config: Config) -> None:
    """Raises UserError: nothing to evaluate, two measurements in one folder, a tag or a published row that is not."""
    systems, temperatures = config.evaluation.systems, [f"{one:g}" for one in config.evaluation.temperatures]
    needed = {"evaluation.systems": systems, "benchmarks": config.benchmarks, "evaluation.temperatures": temperatures}
    if missing := [key for key, values in needed.items() if not values]:
        raise UserError(f"{missing[0]} is empty: nothing to evaluate; name at least one")
    if len(set(temperatures)) < len(temperatures):
        raise UserError(f"evaluation.temperatures=[{', '.join(temperatures)}] names one twice")
    known = published.load().systems
    taken = set()
    for place, settings in enumerate(systems):
        if not NAME.fullmatch(settings.name):
            raise UserError(
                f"evaluation.systems.{place}.name={settings.name!r} names a folder too: 1 to 100 characters, none of "
                "them a slash, a line end or another control character"
            )
        if settings.tags == "one" and settings.one_tag >= config.tags.count:
            raise UserError(
                f"evaluation.systems.{place}.one_tag={settings.one_tag} must be below tags.count={config.tags.count} "
                "(tags are counted from 0)"
            )
        if (settings.name, settings.seed) in taken:
            raise UserError(
                f"evaluation.systems.{place}: there is another system named {settings.name} with seed {settings.seed}; "
                "give one of them another name or seed"
            )
        taken.add((settings.name, settings.seed))
        if settings.published is not None and settings.published not in known:
            raise UserError(
                f"evaluation.systems.{place}.published={settings.published}: the paper's tables have no such row; "
                f"choose from {', '.join(known)}, or null"
            )


def results_of(config: Config, rows: Sequence[dict], home: Path, seconds: dict[str, float]) -> dict:
    """What results.json in `home` holds: rows by benchmark and system, comparisons, the paper's rows, provenance.

    Rows are one for every system and benchmark, of the metrics at the first temperature; their paths become relative
    to `home`.
    """
    compared = comparisons(rows)
    benchmarks: dict[str, dict] = {}
    for row in rows:
        described = json.loads((Path(row["folder"]) / SETTINGS).read_text(encoding="utf-8"))["benchmark"]
        entry = benchmarks.setdefault(row["benchmark"], {"systems": {}, "describe": described})
        paths = {name: os.path.relpath(row[name], home) for name in ("folder", "metrics") if name in row}
        entry["systems"].setdefault(row["system"], []).append(row | paths)
    return {
        "experiment": config.run.name,
        "benchmarks": benchmarks,
        "comparisons": compared,
        "published": {
            settings.name: settings.published for settings in config.evaluation.systems if settings.published
        },
        "seconds": seconds,
        "provenance": versions(),
    }


def comparisons(rows: Sequence[dict]) -> list[dict]:
    """Every other system against the first, paired on the same questions; of several seeds, the first is taken."""
    compared = []
    for benchmark in dict.fromkeys(row["benchmark"] for row in rows):
        first_of = {row["system"]: row for row in reversed(rows) if row["benchmark"] == benchmark}
        names = dict.fromkeys(row["system"] for row in rows if row["benchmark"] == benchmark)
        one, *others = (first_of[name] for name in names)
        samples = load_joined(Path(one["folder"])) if others else []
        for other in others:
            theirs = load_joined(Path(other["folder"]))
            for metric in main_metrics(one):
                if one[metric] is not None and other[metric] is not None:
                    found = compare(samples, theirs, one["tags"], metric=metric)
                    about = {"benchmark": benchmark, "system_a": one["system"], "system_b": other["system"]}
                    compared.append({**about, "metric": metric, **found})
    return compared


def main_metrics(row: dict) -> tuple[str, str, str]:
    """One sample, one vote over all slots, and whether any slot is right."""
    return "pass@1", f"cons@{row['tags']}", f"pass@{row['tags']}"


def _row(system: System, asked: Asked) -> dict:
    config, settings = system.config, system.settings
    rows = []
    for temperature in config.evaluation.temperatures:
        folder = measurement_folder(config, settings, asked.name, temperature)
        rows.append(measure(system, asked, temperature, folder) | {"folder": str(folder)})
    first = rows[0]
    if system.metrics_file:
        first["metrics"] = str(system.metrics_file)
    if len(rows) > 1:
        kept = (*main_metrics(first), "diversity", "mean_tokens")
        first["temperatures"] = {f"{row['temperature']:g}": {key: row[key] for key in kept} for row in rows}
    return first
