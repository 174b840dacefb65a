"""A whole study from data to report: base model, every matching rule from it, policies, evaluation of each, table.

    python recipes/reproduce.py experiment=tiny          # the demo: one seed, optimal against random, GFPO and GRPO
    python recipes/reproduce.py experiment=tiny_study    # three seeds, all four rules, more policies
    python recipes/reproduce.py experiment=math_32b data.source=[s1k.jsonl] launcher=slurm --dry-run
    python recipes/reproduce.py experiment=math_32b data.source=[s1k.jsonl] launcher=slurm
    python recipes/reproduce.py experiment=math_32b data.source=[s1k.jsonl] --status

With launcher=local the stages run here, one after the other; with launcher=slurm those that are missing are submitted
as jobs, each after the ones it needs. Run again, it continues: complete stages are skipped, jobs under way are left
alone, an unfinished stage goes on from its newest checkpoint or sample. Everything lies in run.folder; the report is
report.html and report.md there, its numbers results.json (docs/reproduce.md).
"""

from pathlib import Path

from rich.console import Console

from nemo_forking.cli import recipe
from nemo_forking.cluster.graph import graph
from nemo_forking.cluster.stages import Stage
from nemo_forking.config import Config
from nemo_forking.errors import UserError

WIDE = 160  # columns, of a table that goes into a file
SWITCHES = {
    "--dry-run": ("study.action=plan", "print stages, commands, GPU hours and disk, and stop"),
    "--status": ("study.action=status", "print what became of every stage, and stop"),
}

console = Console(stderr=True)


@recipe(experiment="tiny", switches=SWITCHES)
def run(config: Config) -> None:
    stages, folder = graph(config), Path(config.run.folder)
    if config.study.action != "run":
        tell(config, stages, folder)
    elif config.launcher.kind == "slurm":
        submit(config, stages, folder)
    else:
        run_here(config, stages, folder)


def run_here(config: Config, stages: list[Stage], folder: Path) -> None:
    from nemo_forking.cluster import local  # here, so that --help and --dry-run answer at once
    from nemo_forking.evaluation.report import print_table
    from nemo_forking.training.launch import check_launch

    if config.layout.accelerator == "gpu" or check_launch(config):
        raise UserError(
            "a study starts its own ranks, on the CPU: take a CPU layout, without torchrun or srun. On GPUs its stages "
            "are jobs: launcher=slurm, or the commands that --dry-run prints"
        )
    page = folder / "report.html"
    before = page.stat().st_mtime_ns if page.exists() else None
    local.run_here(stages, folder)
    if page.stat().st_mtime_ns == before:
        print_table(folder)
    console.print(f"The report is {page}", style="bold", soft_wrap=True)


def submit(config: Config, stages: list[Stage], folder: Path) -> None:
    from nemo_forking.cluster.submit import submit_missing

    submitted = submit_missing(stages, folder, config.launcher)
    said = f"{len(submitted)} jobs submitted" if submitted else "Nothing to submit"
    console.print(f"{said}; --status tells what becomes of them", style="bold", soft_wrap=True)


def tell(config: Config, stages: list[Stage], folder: Path) -> None:
    from nemo_forking.cluster.outlook import show_plan
    from nemo_forking.cluster.status import show, status

    out = Console() if Console().is_terminal else Console(width=WIDE)
    told = status(stages, folder)
    if config.study.action == "status":
        show(told, out)
    else:
        show_plan(told, folder.name, config.launcher, out)


if __name__ == "__main__":
    run()
