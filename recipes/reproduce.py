"""A whole study from nothing to a report: data, base model, every matching rule from that base, policies, evaluation.

    python recipes/reproduce.py experiment=tiny          # the demo: one seed, optimal against random, GFPO and GRPO
    python recipes/reproduce.py experiment=tiny_study    # three seeds, all four rules, more policies

Run again, it continues: finished stages are skipped, an unfinished one goes on from its newest checkpoint or sample.
Everything lies in run.folder; the report is report.html and report.md there, its numbers results.json.
"""

import json
import time
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from nemo_forking.cli import recipe
from nemo_forking.config import Config, save_resolved, with_overrides
from nemo_forking.config.policy import PolicyStageConfig
from nemo_forking.data.prepare import prepare
from nemo_forking.errors import UserError
from nemo_forking.evaluation.policy import policy_rows
from nemo_forking.evaluation.report import print_table, write_report
from nemo_forking.evaluation.run import evaluate, results_of
from nemo_forking.files import write_aside
from nemo_forking.rl.prompts import prepare_prompts
from nemo_forking.tasks import many_ways
from nemo_forking.training.launch import check_launch, start_training
from nemo_forking.training.launch_policy import start_policy

BASE_PROMPT = "{question}\n\n"

console = Console(stderr=True)


@recipe(experiment="tiny")
def run(config: Config) -> None:
    if config.layout.accelerator == "gpu" or check_launch(config):
        raise UserError("a study starts its own ranks, on the CPU: take a CPU layout, without torchrun or srun")
    if set(config.benchmarks) != {"many_ways"}:
        raise UserError(f"a study evaluates on benchmarks=[many_ways], not {list(config.benchmarks)}")
    folder = Path(config.run.folder)
    asked, config = config, generate(config, folder)
    systems = []
    for seed in config.study.seeds:
        home = folder / f"seed{seed}"
        systems.append(train_base(config, folder, home, seed))
        systems += [train_rule(config, home, seed, rule) for rule in config.study.rules]
        systems += [system_of(home / rule, f"{rule}_own", seed, tags="own") for rule in starts(config)]
        for policy in config.study.policies:
            systems += train_policy(config, home, seed, policy)
    save_resolved(asked, folder)  # not before: another study's folder is refused on the way here, and keeps its own
    with stage(folder, "evaluation"):
        config = with_overrides(config, {"evaluation.systems": systems})
        *_, rows = evaluate(config)
        evaluated = results_of(config, rows, folder, {})
    benchmark = evaluated["benchmarks"]["many_ways"]
    results = {
        "experiment": config.run.name,
        "rules": {rule: benchmark["systems"][rule] for rule in config.study.rules},
        "base": benchmark["systems"]["base"],
        **policies(config, benchmark["systems"], folder),
        "comparisons": evaluated["comparisons"],
        "benchmark": benchmark["describe"],
        "seconds": stage_seconds(folder),
        "provenance": evaluated["provenance"],
    }
    write_aside(folder / "results.json", json.dumps(results, indent=1))
    html, _ = write_report(folder)
    print_table(folder)
    console.print(f"The report is {html}", style="bold")


# ---------------------------------------------------------------- stages


def generate(config: Config, folder: Path) -> Config:
    """Questions with their teachers' traces, tokenizer, and both token files; the configuration with their paths."""
    questions, source = config.study.questions, folder / "source"
    with stage(folder, "data"):
        many_ways.make_tokenizer(folder / "tokenizer")
        many_ways.write(
            source,
            base=questions.base,
            train=questions.train,
            rl=questions.rl if config.study.policies else 0,
            heldout=questions.heldout,
            seed=config.data.seed,
        )
        config = with_overrides(
            config,
            {
                "data.tokenizer": str(folder / "tokenizer"),
                "data.source": [str(source / "train.jsonl")],
                "data.folder": str(folder / "data" / "train"),
            },
        )
        prepare(config.data)
        prepare(base_data(config, folder).data)
        if config.study.policies:
            prepare_prompts(config)
    return config


def base_data(config: Config, folder: Path) -> Config:
    """The base model reads other questions, and one token more before the trace, where the tag will stand."""
    changes = {
        "data.source": [str(folder / "source" / "base.jsonl")],
        "data.folder": str(folder / "data" / "base"),
        "data.prompt": BASE_PROMPT,
        "data.choose": "random",
    }
    return with_overrides(config, changes)


def train_base(config: Config, folder: Path, home: Path, seed: int) -> dict:
    """A model from random weights that knows every teacher's way and no tags; data parallel, for it is small."""
    base = config.study.base
    changes = {
        "run.name": f"base-seed{seed}",
        "run.folder": str(home / "base"),
        "run.seed": seed,
        "matching.rule": "none",
        "matching.every": 1,
        "batch.questions": base.questions,
        "optim.lr": base.lr,
        "trainer.max_steps": base.max_steps,
        "layout.tensor": 1,
        "layout.sequence_parallel": False,
    }
    trained = with_overrides(base_data(config, folder), changes)
    with stage(folder, trained.run.name):
        start_training(trained)
    return system_of(home / "base", "base", seed, tags="none", prompt=BASE_PROMPT)


def train_rule(config: Config, home: Path, seed: int, rule: str) -> dict:
    """SSFT (`optimal`) or a baseline, from the base model of the same seed; as an item of evaluation.systems."""
    changes = {
        "run.name": f"{rule}-seed{seed}",
        "run.folder": str(home / rule),
        "run.seed": seed,
        "matching.rule": rule,
        "matching.every": config.matching.every if rule == "optimal" else 1,
        "tags.seed": seed,
        "model.base": str(home / "base" / "model"),
    }
    trained = with_overrides(config, changes)
    with stage(home.parent, trained.run.name):
        start_training(trained)
    tags = {"none": "none", "mixed": "one"}.get(rule, "every")
    return system_of(home / rule, rule, seed, tags=tags, one_tag=config.matching.mixed_tag)


def train_policy(config: Config, home: Path, seed: int, policy: PolicyStageConfig) -> list[dict]:
    """GFPO (scope tag) or GRPO (all) from a rule's model; two items of evaluation.systems: its own tag, every tag."""
    settings = config.study.policy
    changes = {
        "run.name": f"{policy.name}-seed{seed}",
        "run.folder": str(home / policy.name),
        "run.seed": seed,
        "model.base": str(home / policy.rule / "model"),
        "policy.scope": policy.scope,
        "rollout.tags": policy.tags,
        "rollout.reuse": policy.reuse,
        "batch.questions": settings.questions,
        "optim.lr": policy.lr,
        "optim.body_lr": policy.body_lr,
        "optim.min_lr": 0.0,
        "trainer.max_steps": settings.max_steps,
    }
    trained = with_overrides(config, changes)
    with stage(home.parent, trained.run.name):
        start_policy(trained)
    own = system_of(home / policy.name, policy.name, seed, tags="own")
    return [own, system_of(home / policy.name, f"{policy.name}_every", seed, tags="every")]


def starts(config: Config) -> list[str]:
    """The rules whose models some policy starts from."""
    return list(dict.fromkeys(policy.rule for policy in config.study.policies))


def system_of(run: Path, name: str, seed: int, **asked: str | int) -> dict:
    """A trained model as an item of evaluation.systems."""
    return {"name": name, "model": f"{run}/model", "run": str(run), "seed": seed, **asked}


def policies(config: Config, systems: dict[str, list[dict]], home: Path) -> dict:
    """What results.json says of the reinforced models: a row a seed under each one's name, and their measurements."""
    found = {}
    for policy in config.study.policies:
        names = (policy.name, f"{policy.name}_every", f"{policy.rule}_own", policy.rule)
        rows = zip(*(systems[name] for name in names), strict=True)  # a row a seed, in the seeds' order
        found[policy.name] = [policy_rows(*four, home=home) for four in rows]
    asked = [f"{rule}_own" for rule in starts(config)]
    asked += [name for policy in config.study.policies for name in (policy.name, f"{policy.name}_every")]
    return found | {"policy_names": list(found), "policies": {name: systems[name] for name in asked}}


# ---------------------------------------------------------------- clock


@contextmanager
def stage(folder: Path, name: str):
    """Announce a stage and add the seconds it took to the run folder's record, over all attempts."""
    console.rule(f"[bold]{name}", align="left")
    started = time.monotonic()
    try:
        yield
    finally:
        seconds = stage_seconds(folder)
        seconds[name] = round(seconds.get(name, 0.0) + time.monotonic() - started, 1)
        write_aside(folder / "seconds.json", json.dumps(seconds, indent=1))


def stage_seconds(folder: Path) -> dict[str, float]:
    """Seconds spent in each stage so far."""
    file = folder / "seconds.json"
    return json.loads(file.read_text()) if file.exists() else {}


if __name__ == "__main__":
    run()
