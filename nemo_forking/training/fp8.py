"""8-bit matrix products by Transformer Engine (layout.fp8): what NeMo is told of them, and what they need.

All layers' linears compute in 8 bits, forward and backward; attention, norms, embedding and head do not. Weights stay
bfloat16, so that checkpoints and exports are the same files with and without. Written from the sources of NeMo 2.7,
Megatron-Core 0.15 and Transformer Engine 2.9; not run.
"""

from importlib.util import find_spec

from nemo_forking.config import Config
from nemo_forking.data.packing import fp8_multiple
from nemo_forking.errors import UserError
from nemo_forking.plan.parameters import head_widths

# What gradients are cast to (all else is e4m3): Transformer Engine's own choice for each recipe. One scale for a whole
# tensor leaves gradients the range of e5m2; blocks, with a scale each, the precision of e4m3.
FORMATS = {"delayed": "hybrid", "tensorwise": "hybrid", "blockwise": "e4m3", "mxfp8": "e4m3"}


def precision_settings(recipe: str | None) -> dict:
    """Arguments of NeMo's MegatronMixedPrecision; none without fp8."""
    if recipe is None:
        return {}
    settings = {"fp8": FORMATS[recipe], "fp8_recipe": recipe, "fp8_param_gather": False}
    if recipe == "delayed":  # scales from the largest of many steps, as in NeMo's own recipe; its default is the last
        settings |= {"fp8_amax_history_len": 1024, "fp8_amax_compute_algo": "max"}
    return settings


def check_fp8(config: Config) -> None:
    """Raises UserError where Transformer Engine is not installed, or a linear's share is of a width it cannot take.

    Whether the GPU can (delayed, tensorwise: from Ada on; blockwise: Hopper; mxfp8: Blackwell), it says itself.
    """
    m, layout = config.model, config.layout
    if layout.fp8 is None:
        return
    if find_spec("transformer_engine") is None:
        raise UserError(
            f"layout.fp8={layout.fp8} needs Transformer Engine, which is not installed: `pip install "
            "'transformer-engine[pytorch]'` (it is in NeMo's container), or set layout.fp8=null"
        )
    multiple, (queries, keys) = fp8_multiple(layout.fp8), head_widths(m)
    widths = {
        "model.hidden_size": m.hidden_size,
        "model.ffn_hidden_size / layout.tensor": m.ffn_hidden_size // layout.tensor,
        "query heads' width / layout.tensor": queries // layout.tensor,
        "query, key and value heads' width / layout.tensor": (queries + 2 * keys) // layout.tensor,
    }
    for name, width in widths.items():
        if width % multiple:
            raise UserError(
                f"layout.fp8={layout.fp8} takes linears whose width is a multiple of {multiple}, but {name} = {width}: "
                "lower layout.tensor, or take another layout.fp8"
            )
