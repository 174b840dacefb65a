"""layout.fp8: what NeMo is told, what is refused before ranks start, what micro-batches are rounded up to.

Nothing here multiplies in 8 bits: that takes a GPU and Transformer Engine.
"""

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import pytest

from nemo_forking.config import load
from nemo_forking.data.packing import pass_layout
from nemo_forking.errors import UserError
from nemo_forking.plan.activations import Sheet, layer_bytes
from nemo_forking.plan.state import rank_state
from nemo_forking.training.fp8 import FORMATS, check_fp8, precision_settings


def config(*overrides):
    return load(["experiment=ssft_math_32b", *overrides])


@pytest.fixture
def engine(monkeypatch):
    """Transformer Engine as find_spec sees it: there, and not imported."""
    module = ModuleType("transformer_engine")
    module.__spec__ = ModuleSpec("transformer_engine", None)
    monkeypatch.setitem(sys.modules, "transformer_engine", module)


@pytest.mark.parametrize("recipe", FORMATS)
def test_without_transformer_engine_fp8_is_refused(recipe):
    with pytest.raises(UserError, match=f"layout.fp8={recipe} needs Transformer Engine, which is not installed"):
        check_fp8(config(f"layout.fp8={recipe}"))
    check_fp8(config())


def test_linears_whose_share_is_no_multiple_of_a_block_are_refused(engine):
    for recipe in FORMATS:
        check_fp8(config(f"layout.fp8={recipe}"))
    wide = ("model=qwen25_72b", "layout.tensor=8")  # 29,568 / 8 = 3,696 = 16 x 231
    check_fp8(config(*wide, "layout.fp8=blockwise"))
    with pytest.raises(UserError, match="a multiple of 32, but model.ffn_hidden_size / layout.tensor = 3696"):
        check_fp8(config(*wide, "layout.fp8=mxfp8"))


def test_gradients_are_e4m3_under_scaled_blocks_and_e5m2_under_one_scale_a_tensor():
    assert {recipe: precision_settings(recipe)["fp8"] for recipe in FORMATS} == FORMATS
    assert precision_settings("delayed")["fp8_amax_history_len"] == 1024
    assert precision_settings(None) == {}


@pytest.mark.parametrize(("recipe", "of_a_rank"), [("delayed", 16), ("blockwise", 16), ("mxfp8", 32), (None, 2)])
def test_every_ranks_tokens_are_a_multiple_of_what_8_bit_products_take(recipe, of_a_rank):
    one = config("layout=64xa100", f"layout.fp8={recipe or 'null'}")  # tensor 8 with sequence parallelism, context 2
    assert pass_layout(one.batch, one.layout).multiple == 8 * 2 * of_a_rank


def test_8_bit_copies_of_the_linears_weights_are_planned():
    plain, eight, blocks = (config(f"layout.fp8={recipe}") for recipe in ("null", "tensorwise", "mxfp8"))
    weights = [rank_state(one.model, one.layout, 0).weights for one in (plain, eight, blocks)]
    linears = 64 * (5120 * (2 * 5120 + 2 * 1024) + 3 * 5120 * 27648) // 8
    assert weights[1] - weights[0] == 2 * linears
    assert weights[2] - weights[0] == 2 * linears + 2 * linears // 32


def test_linears_keep_their_inputs_in_8_bits():
    sheet = Sheet(tokens=32768, labels=32768)
    kept = {r: layer_bytes((c := config(f"layout.fp8={r}")).model, c.layout, sheet) for r in ("null", *FORMATS)}
    inputs = (2 * 5120 + 27648) / 8 * 32768  # two norms' outputs, SwiGLU's product
    assert kept["null"] - kept["tensorwise"] == inputs
    assert kept["null"] - kept["delayed"] == inputs - 5120 / 8 * 32768  # a copy of attention's output
    assert kept["null"] - kept["mxfp8"] == inputs * (1 - 1 / 32)
    assert kept["null"] - kept["blockwise"] == inputs * (1 - 1 / 32)
