"""The plan as tables for a console."""

from rich.console import Console
from rich.table import Table

from nemo_forking.config import Config
from nemo_forking.plan.memory import GIB
from nemo_forking.plan.plan import Plan
from nemo_forking.plan.work import PassWork


def heading(config: Config) -> str:
    """One line on what is planned; printed before anything is computed."""
    layout = config.layout
    sizes = f"tensor {layout.tensor} x pipeline {layout.pipeline} x context {layout.context} x data {layout.data}"
    return f"Plan of {config.run.name} on {layout.processes} {layout.accelerator.upper()}s: {sizes}"


def show(config: Config, plan: Plan, console: Console) -> None:
    """Print memory, work, time and disk."""
    console.print(_memory(config, plan))
    console.print(_work(config, plan))
    for line in _lines(config, plan):
        console.print(line, highlight=False, soft_wrap=True)


def _memory(config: Config, plan: Plan) -> Table:
    offered = "" if plan.room is None else f", of {plan.room / GIB:.1f} (plan.reserve_gib left free)"
    table = Table(title=f"Memory of a rank at its fullest, GiB{offered}", title_justify="left")
    scoring = "fork pass" if config.plan.recipe == "gfpo" else "matching"
    names = f"stage|parameters|weights|gradients|optimizer|activations|(held)|working|logits|{scoring}|sum"
    for name in names.split("|"):
        table.add_column(name, justify="right")
    for number, stage in enumerate(plan.stages):
        state = stage.state
        parts = (state.weights, state.gradients, state.optimizer, stage.activations)
        rest = (stage.working, stage.logits, stage.matching)
        table.add_row(
            str(number),
            f"{stage.parameters / 1e9:.3f} B" if stage.parameters >= 1e7 else f"{stage.parameters:,}",
            *map(_gib, parts),
            f"x{stage.held:g}",
            *map(_gib, rest),
            _gib(stage.peak),
            style="red" if plan.room is not None and stage.peak > plan.room else None,
        )
    return table


def _work(config: Config, plan: Plan) -> Table:
    policy = config.plan.recipe == "gfpo"
    scope = {"tag": "update at the fork", "all": "update, all tokens"}[config.policy.scope]
    table = Table(title="Work of a step, all ranks", title_justify="left")
    for name in ("", "rows", "tokens", "micro-batches", "model FLOPs", "computed", "bubble", "imbalance", "seconds"):
        table.add_column(name, justify="left" if not name else "right")
    parts = {"fork pass" if policy else "matching": plan.scoring, scope if policy else "training": plan.training}
    for name, part in parts.items():
        if part:
            table.add_row(name, *_cells(part))
    return table


def _cells(part: PassWork) -> list[str]:
    return [
        f"{part.rows:,.0f}",
        f"{part.tokens:,.0f}",
        f"{round(part.micro_batches, 1):,g} x {part.time:,}",
        f"{part.model_flops:.3g}",
        f"{part.computed_flops:.3g}",
        f"{part.bubble:.0%}",
        f"{part.imbalance:.0%}",
        "-" if part.gpu_seconds is None else f"{part.gpu_seconds:.2f}",
    ]


def _lines(config: Config, plan: Plan) -> list[str]:
    mean, layout = plan.lengths, config.layout
    lines = [f"Lengths: prompt {mean.prompt}, trace {mean.trace} tokens ({mean.source})"]
    if config.plan.recipe == "gfpo":
        lines = [
            f"Lengths: prompt {mean.prompt}, completion {config.plan.completion_tokens} tokens "
            "(assumed, plan.prompt_tokens and plan.completion_tokens)",
            "Generation, grading and refit are not planned: they come on top, and are most of such a step",
        ]
    elif plan.scoring:
        share = (plan.scoring.model_flops + plan.training.model_flops) / plan.training.model_flops
        lines.append(f"Matching makes a step's model FLOPs {share:.2f} times those of training alone")
        if plan.batches < plan.steps:
            lines.append(
                f"{plan.batches / plan.steps:.0%} of questions are matched (matching.every), the others keep tags"
            )
    if plan.hours is None:
        lines.append("Time: unknown, layout.peak_tflops is null")
    else:
        source = config.plan.measured
        known = f"measured in {source}" if source else "plan.efficiency, assumed, not measured"
        lines.append(
            f"Time: {plan.seconds:.1f} s a step, {plan.hours:.1f} h for {plan.steps:,} steps, when a busy GPU computes "
            f"at {plan.efficiency:.3g} of {layout.peak_tflops:g} TFLOP/s ({known})"
        )
        if layout.fp8 and not source:
            lines.append(f"layout.fp8={layout.fp8} is not in these times: how much faster it is has not been measured")
    lines.append(
        f"Disk: {size(plan.disk)}: {config.trainer.keep_last} checkpoints of {size(plan.checkpoint)} and one being "
        f"written, the model {size(plan.export)}"
    )
    return lines


def _gib(number: float) -> str:
    return f"{number / GIB:.2f}" if number >= GIB / 100 or not number else f"{number / GIB:.1g}"


def size(number: float) -> str:
    """Bytes for readers."""
    for unit, one in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if number >= one:
            return f"{number / one:,.1f} {unit}"
    return f"{number / 1e3:,.0f} kB"
