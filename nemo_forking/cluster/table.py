"""The last stage: what the evaluations found, in one results.json with its report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from nemo_forking.cluster.graph import graph
from nemo_forking.cluster.record import seconds
from nemo_forking.config import save_resolved
from nemo_forking.config.schema import Config, Resolved
from nemo_forking.errors import UserError
from nemo_forking.evaluation.policy import policy_rows
from nemo_forking.files import write_aside


def make_table(config: Resolved) -> Path:
    """Gather the study's evaluations into results.json, report.html and report.md of its folder.

    Returns:
        The report's page.

    Raises:
        UserError: an evaluation is missing or damaged.
    """
    from nemo_forking.evaluation.report import print_table, write_report  # here: plots take a second to import
    from nemo_forking.evaluation.run import results_of

    folder = Path(config.run.folder)
    evaluations = [stage.config for stage in graph(config) if stage.recipe == "evaluate"]
    systems = tuple(system for one in evaluations for system in one.evaluation.systems)
    asked = replace(config, evaluation=replace(config.evaluation, systems=systems))
    rows = [row for one in evaluations for row in _rows(Path(one.evaluation.folder))]
    results = results_of(asked, rows, folder, seconds(folder))
    if config.study.questions is not None:
        results = _of_study(config, results, folder)
    save_resolved(config, folder)
    write_aside(folder / "results.json", json.dumps(results, indent=1))
    page, _ = write_report(folder)
    print_table(folder)
    return page


def _rows(home: Path) -> list[dict[str, Any]]:
    """Every row of an evaluation, its paths as seen from here."""
    file = home / "results.json"
    try:
        benchmarks = json.loads(file.read_text(encoding="utf-8"))["benchmarks"]
        found = [row for entry in benchmarks.values() for rows in entry["systems"].values() for row in rows]
        return [row | {name: str(home / row[name]) for name in ("folder", "metrics") if name in row} for row in found]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file}: missing or damaged ({error!r}); run recipes/evaluate.py for it again") from None


# ---------------------------------------------------------------- the laptop study


def _of_study(config: Config, evaluated: dict, folder: Path) -> dict:
    """results.json of a study on generated questions: rules, base and policies under their own keys."""
    benchmark = evaluated["benchmarks"]["many_ways"]
    systems = benchmark["systems"]
    return {
        "experiment": config.run.name,
        "rules": {rule: systems[rule] for rule in config.study.rules},
        "base": systems["base"],
        **_policies(config, systems, folder),
        "comparisons": evaluated["comparisons"],
        "benchmark": benchmark["describe"],
        "seconds": evaluated["seconds"],
        "provenance": evaluated["provenance"],
    }


def _policies(config: Config, systems: Mapping[str, list[dict]], home: Path) -> dict:
    """What results.json says of the reinforced models: a row a seed under each one's name, and their measurements."""
    found = {}
    for policy in config.study.policies:
        names = (policy.name, f"{policy.name}_every", f"{policy.rule}_own", policy.rule)
        rows = zip(*(systems[name] for name in names), strict=True)  # a row a seed, in the seeds' order
        found[policy.name] = [policy_rows(*four, home=home) for four in rows]
    asked = [f"{rule}_own" for rule in dict.fromkeys(policy.rule for policy in config.study.policies)]
    asked += [name for policy in config.study.policies for name in (policy.name, f"{policy.name}_every")]
    return found | {"policy_names": list(found), "policies": {name: systems[name] for name in asked}}
