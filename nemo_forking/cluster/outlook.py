"""The plan of a study before it runs: order, commands, machines, GPU hours and disk by nemo_forking/plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rich.console import Console
from rich.table import Table

from nemo_forking.cluster import slurm
from nemo_forking.cluster.stages import Stage
from nemo_forking.cluster.status import Told
from nemo_forking.cluster.submit import job_of
from nemo_forking.config.launcher import LauncherConfig
from nemo_forking.errors import UserError
from nemo_forking.plan.disk import export_bytes
from nemo_forking.plan.plan import Plan, make_plan, refuse_what_cannot_fit
from nemo_forking.plan.show import size

UNPLANNED = {  # recipe -> what the plan says in place of GPU hours
    "gfpo": "generation and grading come on top, and are most of it",
    "evaluate": "not planned: generation and grading",
}


@dataclass(frozen=True)
class Expected:
    """What a stage is expected to take.

    Attributes:
        stage: the stage.
        nodes, gpus: machines, and GPUs on all of them.
        gpu_hours: of training; None where it is not planned or unknown, 0 without GPUs.
        disk: bytes it leaves; None where that is not planned.
        note: what the figures leave out.
    """

    stage: Stage
    nodes: int
    gpus: int
    gpu_hours: float | None
    disk: int | None
    note: str = ""


def expect(stage: Stage, launcher: LauncherConfig) -> Expected:
    """The machines, hours and disk of a stage."""
    job, config = job_of(stage, "", launcher), stage.config
    gpus = job.nodes * job.gpus_per_node
    if stage.recipe in ("ssft", "gfpo"):
        plan, refusal = _plan(stage)
        hours = 0.0 if not gpus else None if plan.hours is None else plan.hours * config.layout.processes
        note = refusal or UNPLANNED.get(stage.recipe, "")
        if gpus and hours is None:
            note = "unknown: layout.peak_tflops is null"
        return Expected(stage, job.nodes, gpus, hours, plan.disk, note if gpus or refusal else "")
    if stage.recipe == "convert":
        return Expected(stage, job.nodes, 0, 0.0, export_bytes(config))
    if stage.recipe == "evaluate":
        return Expected(stage, job.nodes, gpus, None if gpus else 0.0, None, UNPLANNED["evaluate"] if gpus else "")
    return Expected(stage, job.nodes, 0, 0.0, None)


def show_plan(told: Sequence[Told], study: str, launcher: LauncherConfig, console: Console) -> None:
    """Print the stages in order with what each takes, the sums of those that are not complete, and every command."""
    table = Table(title="Stages in order", title_justify="left")
    for name in ("", "stage", "state", "after", "nodes", "GPUs", "GPU hours", "disk", "not in these figures"):
        table.add_column(name, justify="right" if name in ("", "nodes", "GPUs", "GPU hours", "disk") else "left")
    expected = [expect(one.stage, launcher) for one in told]
    for number, (one, cost) in enumerate(zip(told, expected, strict=True), 1):
        needs = ", ".join(str(1 + place) for place, other in enumerate(told) if other.stage.name in one.stage.needs)
        hours = "?" if cost.gpu_hours is None else f"{cost.gpu_hours:,.1f}" if cost.gpus else "-"
        disk = "?" if cost.disk is None else size(cost.disk)
        cells = (number, one.stage.name, one.state, needs, cost.nodes, cost.gpus or "-", hours, disk, cost.note)
        table.add_row(*map(str, cells))
    console.print(table)
    left = [cost for one, cost in zip(told, expected, strict=True) if one.state != "complete"]
    hours = sum(cost.gpu_hours or 0.0 for cost in left)
    all_disk = sum(cost.disk or 0 for cost in expected)
    source = told[0].stage.config.plan.measured
    speed = f"at the speed measured in {source}" if source else "at plan.efficiency, which is assumed"
    console.print(
        f"Left: {len(left)} of {len(told)} stages, {hours:,.0f} GPU hours of training {speed}; "
        f"what is marked ? is not in it. Disk of all: {size(all_disk)}, samples and rollouts not counted.",
        highlight=False,
        soft_wrap=True,
    )
    for one in told:
        if one.state == "refused":
            console.print(f"{one.stage.name} cannot start: {one.detail}", style="red", soft_wrap=True, markup=False)
    console.print("Commands:", style="bold")
    for number, one in enumerate(told, 1):
        console.print(
            f"{number}. {_command(one.stage, study, launcher)}", highlight=False, soft_wrap=True, markup=False
        )


def _command(stage: Stage, study: str, launcher: LauncherConfig) -> str:
    if launcher.kind == "local":
        return stage.command
    return str(slurm.submit(job_of(stage, study, launcher), launcher, dry_run=True))


def _plan(stage: Stage) -> tuple[Plan, str]:
    """The plan of a training stage, and why it could not start."""
    config = replace(stage.config, plan=replace(stage.config.plan, recipe=stage.recipe))
    plan = make_plan(config)
    try:
        refuse_what_cannot_fit(config, plan)
    except UserError as error:
        return plan, str(error)
    return plan, ""
