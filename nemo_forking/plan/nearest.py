"""The layout nearest to one that does not fit: fewest changes on the same GPUs first, then more nodes."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

from nemo_forking.config import Config
from nemo_forking.config.checks import problems
from nemo_forking.config.schema import LayoutConfig
from nemo_forking.plan.memory import fits

SIZES = (1, 2, 4, 8, 16, 32, 64)
RECOMPUTE = ("none", "selective", "full")
KEYS = ("recompute", "tensor", "sequence_parallel", "pipeline", "context", "virtual_pipeline", "nodes")


def nearest(config: Config, most_nodes: int = 64) -> dict[str, object] | None:
    """Layout keys and values that make the run fit, {} where it fits as it is, None where nothing found does.

    On as many nodes as there are, then on twice as many, and so on. Among layouts that fit, the nearest changes
    recomputation before parallel sizes, and sizes by as few doublings as it can.
    """
    nodes = config.layout.nodes
    while nodes <= max(most_nodes, config.layout.nodes):
        for layout in sorted(_candidates(config, nodes), key=lambda one: _distance(config.layout, one)):
            candidate = replace(config, layout=layout)
            if fits(candidate) and not problems(candidate):
                return {
                    key: getattr(layout, key) for key in KEYS if getattr(layout, key) != getattr(config.layout, key)
                }
        nodes *= 2
    return None


def _candidates(config: Config, nodes: int) -> Iterator[LayoutConfig]:
    """Layouts that recompute no less than the present one; tensor parallelism stays inside a node."""
    layout = config.layout
    for tensor, pipeline, context, recompute in product(SIZES, SIZES, SIZES, RECOMPUTE):
        more = RECOMPUTE.index(recompute) >= RECOMPUTE.index(layout.recompute)
        if more and tensor <= layout.devices and tensor * pipeline * context <= nodes * layout.devices:
            yield replace(
                layout,
                nodes=nodes,
                tensor=tensor,
                pipeline=pipeline,
                context=context,
                recompute=recompute,
                sequence_parallel=tensor > 1 and (layout.sequence_parallel or tensor > layout.tensor),
                virtual_pipeline=layout.virtual_pipeline if pipeline == layout.pipeline else None,
            )


def _distance(ours: LayoutConfig, other: LayoutConfig) -> tuple[float, int, int]:
    """Doublings between the sizes; of layouts equally far, pipeline and context parallelism change last."""
    tensor, pipeline, context = (
        abs(getattr(ours, key).bit_length() - getattr(other, key).bit_length())
        for key in ("tensor", "pipeline", "context")
    )
    steps = RECOMPUTE.index(other.recompute) - RECOMPUTE.index(ours.recompute)
    return tensor + pipeline + context + steps / 4, context, pipeline
