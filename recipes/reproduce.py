"""A whole study from nothing to a report: data, base model, every matching rule from that base, sampling, comparison.

    python recipes/reproduce.py experiment=tiny              # the demo: one seed, optimal against random
    python recipes/reproduce.py experiment=tiny_study        # three seeds, all four rules

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
from nemo_forking.config.record import versions
from nemo_forking.data.encoding import load_tokenizer
from nemo_forking.data.prepare import prepare
from nemo_forking.data.prompt import PromptFormat
from nemo_forking.engines.transformers import TransformersEngine
from nemo_forking.errors import UserError
from nemo_forking.evaluation.metrics import summarise
from nemo_forking.evaluation.report import print_table, write_report
from nemo_forking.evaluation.sampling import HeldOut, Reader, SamplingSettings, draw_samples, weights_hash
from nemo_forking.files import write_aside
from nemo_forking.tags import make_tags
from nemo_forking.tasks import many_ways
from nemo_forking.training.launch import check_launch, start_training

BASE_PROMPT = "{question}\n\n"

console = Console(stderr=True)


@recipe(experiment="tiny")
def run(config: Config) -> None:
    if config.layout.accelerator == "gpu" or check_launch(config):
        raise UserError("a study starts its own ranks, on the CPU: take a CPU layout, without torchrun or srun")
    folder = Path(config.run.folder)
    asked, config = config, generate(config, folder)
    rules: dict[str, list] = {rule: [] for rule in config.study.rules}
    base_runs = []
    for seed in config.study.seeds:
        home = folder / f"seed{seed}"
        base = train_base(config, folder, home, seed)
        base_runs.append(sample(base, folder, seed))
        for rule in rules:
            trained = train_rule(config, home, seed, rule)
            rules[rule].append(sample(trained, folder, seed))
    save_resolved(asked, folder)  # not before: another study's folder is refused on the way here, and keeps its own
    results = {
        "experiment": config.run.name,
        "rules": rules,
        "base": base_runs,
        "seconds": stage_seconds(folder),
        "provenance": versions(),
    }
    write_aside(folder / "results.json", json.dumps(results, indent=1))
    html, _ = write_report(folder)
    print_table(results)
    console.print(f"The report is {html}", style="bold")


# ---------------------------------------------------------------- stages


def generate(config: Config, folder: Path) -> Config:
    """Questions with their teachers' traces, tokenizer, and both token files; the configuration with their paths."""
    questions, source = config.study.questions, folder / "source"
    with stage(folder, "data"):
        many_ways.make_tokenizer(folder / "tokenizer")
        many_ways.write(
            source, base=questions.base, train=questions.train, heldout=questions.heldout, seed=config.data.seed
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


def train_base(config: Config, folder: Path, home: Path, seed: int) -> Config:
    """A model from random weights that knows every teacher's way and no tags; data parallel, for it is small."""
    base = config.study.base
    changes = {
        "run.name": f"base-seed{seed}",
        "run.folder": str(home / "base"),
        "run.seed": seed,
        "matching.rule": "none",
        "batch.questions": base.questions,
        "optim.lr": base.lr,
        "trainer.max_steps": base.max_steps,
        "layout.tensor": 1,
        "layout.sequence_parallel": False,
    }
    trained = with_overrides(base_data(config, folder), changes)
    with stage(folder, trained.run.name):
        start_training(trained)
    return trained


def train_rule(config: Config, home: Path, seed: int, rule: str) -> Config:
    """SSFT (`optimal`) or a baseline, from the base model of the same seed."""
    changes = {
        "run.name": f"{rule}-seed{seed}",
        "run.folder": str(home / rule),
        "run.seed": seed,
        "matching.rule": rule,
        "tags.seed": seed,
        "model.base": str(home / "base" / "model"),
    }
    trained = with_overrides(config, changes)
    with stage(home.parent, trained.run.name):
        start_training(trained)
    return trained


def sample(trained: Config, folder: Path, seed: int) -> dict:
    """Every tag on the held-out questions: the run's row in results.json."""
    model, samples = Path(trained.run.folder) / "model", Path(trained.run.folder) / "samples.jsonl"
    tokenizer = load_tokenizer(model)
    tags = make_tags(
        load_tokenizer(trained.data.tokenizer),
        trained.tags.spelling,
        trained.tags.count,
        vocabulary_rows=trained.model.vocab_size,
    )
    rule = trained.matching.rule
    asked = {"none": [()] * tags.count, "mixed": [tags.ids_NK[trained.matching.mixed_tag]] * tags.count}
    settings = trained.study.samples
    banned = {*range(len(tokenizer), trained.model.vocab_size), *(ids[0] for ids in tags.ids_NK)}
    with stage(folder, f"samples of {trained.run.name}"):
        drawn = draw_samples(
            TransformersEngine(model, batch_size=trained.engine.batch_size, banned=sorted(banned)),
            held_out(trained, folder),
            asked.get(rule, tags.ids_NK),
            SamplingSettings(
                rounds=settings.rounds,
                max_tokens=settings.max_tokens,
                stop=(tokenizer.eos_token_id,),
                temperature=settings.temperature,
                top_p=settings.top_p,
                seed=seed,
            ),
            Reader(tokenizer.decode, many_ways.answer, many_ways.route),
            samples,
            identity={"weights": weights_hash(model)},
            progress=f"Sampling {trained.run.name}",
        )
    paths = {"metrics": samples.with_name("metrics.jsonl"), "samples": samples}
    row = {name: str(path.relative_to(folder)) for name, path in paths.items()}
    return summarise(drawn, tags.count, seed) | row


def held_out(config: Config, folder: Path) -> list[HeldOut]:
    """The questions nobody was trained on, with prompts as in training."""
    rows = [json.loads(line) for line in (folder / "source" / "heldout.jsonl").read_text().splitlines()]
    form = PromptFormat(
        load_tokenizer(config.data.tokenizer), config.data.prompt, config.data.target, config.data.system
    )
    prompts = form.prompts([row["question"] for row in rows])
    return [
        HeldOut(row["id"], tuple(prompt), row["answer"], many_ways.kind(row["question"]), row["question"])
        for row, prompt in zip(rows, prompts, strict=True)
    ]


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
