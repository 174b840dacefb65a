"""What a rank holds from the first step to the last: weights, gradients, optimizer state."""

from dataclasses import dataclass

from nemo_forking.config.schema import LayoutConfig, ModelConfig
from nemo_forking.plan.parameters import linear_parameters, rank_parameters

GRADIENT = 4  # bytes: gradients are added up and reduced in float32
MOMENTS = 8  # Adam's two, float32
MASTER = 4  # the float32 copy that bfloat16 weights are updated through


@dataclass(frozen=True)
class State:
    """Bytes of one rank."""

    weights: int
    gradients: int
    optimizer: int


def number_bytes(model: ModelConfig) -> int:
    """Bytes of a weight or an activation."""
    return 4 if model.precision == "fp32" else 2


def rank_state(model: ModelConfig, layout: LayoutConfig, stage: int) -> State:
    """State of a rank of a pipeline stage.

    The distributed optimizer splits its state over the data x context-parallel group. Gradients stay whole on every
    rank: Megatron reduce-scatters them in place.
    """
    parameters = rank_parameters(model, layout, stage)
    ranks = layout.data * layout.context if layout.distributed_optimizer else 1
    return State(
        weights=parameters * number_bytes(model) + fp8_copies(model, layout),
        gradients=parameters * GRADIENT,
        optimizer=-(-parameters * optimizer_bytes(model) // ranks),
    )


def fp8_copies(model: ModelConfig, layout: LayoutConfig) -> int:
    """Bytes of the 8-bit weights that Transformer Engine makes of the linears' bf16 ones and keeps over a pass.

    One as it lies and one transposed, which the backward pass multiplies with. (From Blackwell on, delayed and
    tensorwise scaling need the first alone.) Blocks of 32 have a scale of a byte; other scales are few.
    """
    if layout.fp8 is None:
        return 0
    weights = model.num_layers // layout.pipeline * linear_parameters(model, layout.tensor)
    return 2 * weights + (2 * weights // 32 if layout.fp8 == "mxfp8" else 0)


def optimizer_bytes(model: ModelConfig) -> int:
    """Bytes of optimizer state a parameter has, wherever they lie."""
    return MOMENTS + (MASTER if model.precision == "bf16" else 0)
