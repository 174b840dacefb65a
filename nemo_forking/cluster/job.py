"""What a job on a cluster asks about itself: `python -m nemo_forking.cluster.job SCRIPT [key=value ...]`.

Prints assignments for the shell (slurm/common.sh reads them). Where the allocation is not what layout and engine want,
which sbatch cannot know, the job is submitted again with the right size, and `resubmitted` is its number.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace

from nemo_forking.cluster.slurm import PYTHON, Job, field, job_config, job_of, serving_nodes, submit
from nemo_forking.config import Config
from nemo_forking.config.launcher import LauncherConfig
from nemo_forking.config.written import written
from nemo_forking.engines.open import number_format
from nemo_forking.errors import UserError

AGAIN = "NEMO_FORKING_RESUBMITTED"  # environment variable: this job was submitted by one that did not fit


def main(argv: Sequence[str]) -> int:
    """The command of this file's head."""
    try:
        script, *overrides = argv
        config = job_config(overrides)
        wanted, had = job_of(script, config, overrides), allocation(os.environ)
        again = None if fits(wanted, had) else submit_again(wanted, had, config)
        for name, value in settings(script, config, again).items():
            many = isinstance(value, tuple)
            print(f"{name}=({' '.join(map(shlex.quote, value))})" if many else f"{name}={shlex.quote(str(value))}")
        return 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def allocation(environment) -> Job:
    """What Slurm gave this job, by the variables it sets."""
    tasks = [int(count) for count in re.findall(r"(\d+)(?:\(x\d+\))?", environment.get("SLURM_TASKS_PER_NODE", "1"))]
    gpus = environment.get("SLURM_GPUS_ON_NODE") or str(_count(environment.get("SLURM_JOB_GPUS", "")))
    return Job("", (), "", int(environment.get("SLURM_JOB_NUM_NODES", 1)), min(tasks), int(gpus))


def fits(wanted: Job, had: Job) -> bool:
    """Whether an allocation can hold a job: as many nodes, and at least its tasks and GPUs on each."""
    return (
        had.nodes == wanted.nodes
        and had.tasks_per_node >= wanted.tasks_per_node
        and had.gpus_per_node >= wanted.gpus_per_node
    )


def submit_again(wanted: Job, had: Job, config: Config) -> int:
    """Submits the job with the size it wants, in the partition and with the account and limits it has now.

    Raises:
        UserError: it was submitted again before, and still does not fit.
    """
    sizes = [
        f"{job.nodes} nodes, {job.tasks_per_node} tasks and {job.gpus_per_node} GPUs on each" for job in (wanted, had)
    ]
    if os.environ.get(AGAIN):
        raise UserError(
            f"{wanted.script} wants {sizes[0]}; Slurm gave {sizes[1]} although it was asked: `scontrol show job "
            f"{os.environ.get('SLURM_JOB_ID')}` has what was asked, launcher.extra may contradict it"
        )
    print(f"{wanted.script} wants {sizes[0]}, but this job has {sizes[1]}", file=sys.stderr)
    os.environ[AGAIN] = "1"
    return submit(wanted, as_now(config))


def as_now(config: Config) -> LauncherConfig:
    """The launcher's settings, those that were left open as this job has them."""
    said = {key for key, mark in getattr(config, "marks", {}).items() if str(mark) == "command line"}
    now = {name: os.environ.get(f"SLURM_JOB_{name.upper()}") for name in ("partition", "account", "qos")}
    changes = {name: value for name, value in now.items() if value and getattr(config.launcher, name) is None}
    if "launcher.time" not in said and (limit := field(os.environ["SLURM_JOB_ID"], "TimeLimit")):
        changes["time"] = limit
    return replace(config.launcher, **changes)


def settings(script: str, config: Config, resubmitted: int | None) -> dict[str, str | int | tuple[str, ...]]:
    """Name -> value, for the shell."""
    launcher, layout, engine, serving = config.launcher, config.layout, config.engine, serving_nodes(script, config)
    python = f"{launcher.venv}/bin/python" if launcher.venv else os.environ.get(PYTHON, "python3")
    if serving and layout.devices % engine.tensor_parallel:
        raise UserError(
            f"engine.tensor_parallel={engine.tensor_parallel} does not divide the {layout.devices} GPUs of a node "
            "(layout.devices): replicas do not span nodes"
        )
    models = served(script, config) if serving else {}
    return {
        "nodes": layout.nodes,
        "devices": layout.devices,
        "accelerator": layout.accelerator,
        "python": "python" if launcher.container else python,
        "container": launcher.container or "",
        "mounts": launcher.mounts,
        "requeue": str(launcher.requeue).lower(),
        "resubmitted": resubmitted or "",
        "serving_nodes": serving,
        "replicas": layout.devices // engine.tensor_parallel if serving else 0,
        "tensor": engine.tensor_parallel,
        "serving": serve_options(config),
        "models": tuple(models),
        "systems": tuple(models.values()),
    }


def served(script: str, config: Config) -> dict[str, str]:
    """Model folder -> the override that evaluates its systems alone, in the order of evaluation.systems."""
    if script == "gfpo":
        if not config.model.base:
            raise UserError("model.base is not set; give the folder of a model with tags: runs/<an SSFT run>/model")
        return {config.model.base: ""}
    models: dict[str, list[dict]] = {}
    for system in config.evaluation.systems:
        models.setdefault(system.model, []).append(asdict(system))
    return {model: f"evaluation.systems={written(systems)}" for model, systems in models.items()}


def serve_options(config: Config) -> tuple[str, ...]:
    """Options of `vllm serve` that the engine block sets."""
    engine = config.engine
    options = ["--dtype", number_format(engine)]
    if engine.device == "cuda":
        options += ["--gpu-memory-utilization", str(engine.gpu_memory)]
    if engine.max_length:
        options += ["--max-model-len", str(engine.max_length)]
    return (*options, *(["--enforce-eager"] if engine.eager else []))


def _count(listed: str) -> int:
    """How many of "0,1,4-7"."""
    ranges = re.findall(r"(\d+)(?:-(\d+))?", listed)
    return sum(int(last or first) - int(first) + 1 for first, last in ranges)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
