"""FLOPs of a step and the time they take: what the mathematics needs, what is computed, and how long ranks wait."""

from collections.abc import Sequence
from dataclasses import dataclass

from nemo_forking.config import Config
from nemo_forking.data.packing import Row
from nemo_forking.data.sharing import deal_rows
from nemo_forking.plan.flops import head_flops, step_flops
from nemo_forking.plan.parameters import linear_parameters
from nemo_forking.plan.rows import pass_of

TERA = 1e12


@dataclass(frozen=True)
class PassWork:
    """One pass of a step over all GPUs, or the mean of several steps'.

    Attributes:
        rows: how many.
        tokens: that they read, a shared prompt once.
        micro_batches: of a data-parallel rank.
        time: tokens of the largest.
        model_flops: what the mathematics needs (plan/flops.py).
        computed_flops: padding and recomputation included.
        bubble: share of the pass in which a GPU waits for pipeline stages before or after it.
        imbalance: what the dearest data-parallel rank costs above the mean (data/packing.py).
        gpu_seconds: of one GPU, from the pass's beginning to its end; None where layout.peak_tflops is null.
    """

    rows: float
    tokens: float
    micro_batches: float
    time: int
    model_flops: float
    computed_flops: float
    bubble: float
    imbalance: float
    gpu_seconds: float | None


def pass_work(config: Config, rows: Sequence[Row], *, without_gradient: bool) -> PassWork | None:
    """The work of a pass; None for one without rows.

    A pipeline moves at the pace of its slowest stage, the last one, which has the head; data-parallel ranks wait for
    the fullest of them. So a pass of m micro-batches takes (m + (stages - 1) / chunks) x the slowest stage's time.
    """
    if not rows:
        return None
    layout, plan = config.layout, deal_rows(rows, pass_of(config, without_gradient=without_gradient))
    costs = [
        [_computed(config, [rows[i] for i in members], cost, time * plan.batch, without_gradient)
         for members, cost, time in zip(*of_rank, strict=True)]
        for of_rank in zip(plan.micro_batches, plan.costs, plan.times, strict=True)
    ]  # fmt: skip
    count, chunks = len(costs[0]), layout.virtual_pipeline or 1
    fill = (layout.pipeline - 1) / chunks
    seconds = None
    if layout.peak_tflops is not None:
        speed = layout.peak_tflops * TERA * config.plan.efficiency * layout.tensor * layout.context
        slowest = max(sum(layers / layout.pipeline + head for layers, head in rank) for rank in costs)
        seconds = slowest * (1 + fill / count) / speed
    return PassWork(
        rows=len(rows),
        tokens=sum(one.length for one in rows) - sum(plan.spared),
        micro_batches=count,
        time=plan.time,
        model_flops=step_flops(config.model, *((rows, []) if without_gradient else ([], rows)), plan.spared),
        computed_flops=sum(layers + head for rank in costs for layers, head in rank),
        bubble=fill / (count + fill),
        imbalance=plan.imbalance,
        gpu_seconds=seconds,
    )


def mean_work(parts: Sequence[PassWork | None]) -> PassWork | None:
    """The mean of several steps' passes; of their times the largest."""
    parts = [part for part in parts if part]
    if not parts:
        return None
    values = {name: [getattr(part, name) for part in parts] for name in PassWork.__dataclass_fields__}
    means = {name: None if None in each else sum(each) / len(each) for name, each in values.items()}
    return PassWork(**means | {"time": max(values["time"])})


def _computed(
    config: Config, rows: Sequence[Row], cost: float, tokens: int, without_gradient: bool
) -> tuple[float, float]:
    """FLOPs of a micro-batch in the layers and in the head; its cost (data/packing.py) has padding and attention."""
    token = 2.0 * config.model.num_layers * linear_parameters(config.model)  # in the linears, the unit of costs
    layers, attention = cost * token, (cost - tokens) * token
    head = sum(head_flops(config.model, one) for one in rows)
    if without_gradient:
        return layers, head
    again = {"none": 0.0, "selective": attention, "full": layers}[config.layout.recompute]
    return 3 * layers + again, 4 * head  # the head computes its logits again, always
