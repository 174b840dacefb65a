"""FLOPs of a step and the time they take: what the mathematics needs, what is computed, and how long ranks wait."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from nemo_forking.config import Config
from nemo_forking.data.packing import Row
from nemo_forking.plan.parameters import head_widths
from nemo_forking.plan.rows import dealt, row
from nemo_forking.training.flops import forward_flops, step_flops

TERA = 1e12


@dataclass(frozen=True)
class PassWork:
    """One pass of a step over all GPUs.

    Attributes:
        rows: how many.
        tokens: that they read.
        micro_batches: of a data-parallel rank.
        time: tokens of each.
        model_flops: what the mathematics needs (training/flops.py).
        computed_flops: padding and recomputation included.
        bubble: share of the pass in which a GPU waits for pipeline stages before or after it.
        gpu_seconds: of one GPU, from the pass's beginning to its end; None where layout.peak_tflops is null.
    """

    rows: int
    tokens: int
    micro_batches: int
    time: int
    model_flops: float
    computed_flops: float
    bubble: float
    gpu_seconds: float | None


def pass_work(config: Config, rows: Sequence[Row], *, without_gradient: bool) -> PassWork | None:
    """The work of a pass; None for one without rows.

    A pipeline moves at the pace of its slowest stage, the last one, which has the head; data-parallel ranks wait for
    the fullest of them. So a pass of m micro-batches takes (m + (stages - 1) / chunks) x the slowest stage's time.
    """
    if not rows:
        return None
    layout, plan = config.layout, dealt(config, list(rows), without_gradient=without_gradient)
    costs = [[_computed(config, [rows[i] for i in members], plan, without_gradient) for members in rank]
             for rank in plan.micro_batches]  # fmt: skip
    count, chunks = len(costs[0]), layout.virtual_pipeline or 1
    fill = (layout.pipeline - 1) / chunks
    seconds = None
    if layout.peak_tflops is not None:
        speed = layout.peak_tflops * TERA * config.plan.efficiency * layout.tensor * layout.context
        slowest = max(sum(layers / layout.pipeline + head for layers, head in rank) for rank in costs)
        seconds = slowest * (1 + fill / count) / speed
    return PassWork(
        rows=len(rows),
        tokens=sum(one.length for one in rows),
        micro_batches=count,
        time=plan.time,
        model_flops=step_flops(config.model, rows, []) if without_gradient else step_flops(config.model, [], rows),
        computed_flops=sum(layers + head for rank in costs for layers, head in rank),
        bubble=fill / (count + fill),
        gpu_seconds=seconds,
    )


def _computed(config: Config, rows: Sequence[Row], plan, without_gradient: bool) -> tuple[float, float]:
    """FLOPs of a micro-batch in the layers and in the head, its padding included."""
    model, lengths = config.model, [one.length for one in rows]
    if config.batch.packing:
        lengths += [plan.time - sum(lengths)] * (sum(lengths) < plan.time)  # the rest is a document of padding
    else:
        lengths = [plan.time] * plan.batch
    layers = sum(forward_flops(model, row(length, 0)) for length in lengths)
    head = sum(forward_flops(model, one) - forward_flops(model, row(one.length, 0)) for one in rows)
    if without_gradient:
        return layers, head
    again = {"none": 0.0, "selective": attention_flops(config, lengths), "full": layers}[config.layout.recompute]
    return 3 * layers + again, 4 * head  # the head computes its logits again, always


def attention_flops(config: Config, lengths: Iterable[int]) -> float:
    """Causal core attention of one forward."""
    return sum(2.0 * config.model.num_layers * head_widths(config.model)[0] * length**2 for length in lengths)
