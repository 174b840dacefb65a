"""bfloat16, which GPUs train in, run on the CPU for a few steps: near float32, and resumed to the same numbers.

The configuration refuses it on a CPU, where it is slow, so the tests set it behind the checks.
"""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from nemo.lightning.pytorch.plugins.mixed_precision import update_config_with_dtype_overrides

from nemo_forking.config import Config, load
from nemo_forking.model.qwen2 import megatron_config
from nemo_forking.training.fp8 import FORMATS
from nemo_forking.training.trainer import mixed_precision, strategy
from tests.distributed.runs import metrics, run, tiny
from tests.run_files import weights

STEPS = {
    "optim.lr": 1e-2,
    "optim.min_lr": 0.0,
    "optim.eps": 1e-8,
    "trainer.max_steps": 3,
    "trainer.checkpoint_every": 2,
}
LAYOUTS = {
    "tensor and sequence": {"layout.devices": 2, "layout.tensor": 2, "layout.sequence_parallel": True},
    "pipeline": {"layout.devices": 2, "layout.pipeline": 2},
    "data, overlapped": {"layout.devices": 2, "layout.overlap_grad_reduce": True, "layout.overlap_param_gather": True},
}


def in_bf16(config: Config) -> Config:
    return replace(config, model=replace(config.model, precision="bf16"))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_bf16_stays_near_float32_and_resumes_to_the_same_numbers(ground, tmp_path, layout):
    single = run(tiny(ground, tmp_path / "single", STEPS))[0]
    config = in_bf16(tiny(ground, tmp_path / "half", STEPS | LAYOUTS[layout]))
    half = run(config)[0]
    assert half[0].loss == pytest.approx(single[0].loss, rel=1e-2) and half[0].loss != single[0].loss
    assert half[0].grad_norm == pytest.approx(single[0].grad_norm, rel=5e-2)

    folder = Path(config.run.folder)
    before, exported = metrics(config), weights(folder / "model")
    assert {str(tensor.dtype) for tensor in exported.values()} == {"torch.bfloat16"}
    shutil.rmtree(folder / "checkpoints" / "step_0000003")
    run(config)
    assert [(r["step"], r["loss"], r["grad_norm"]) for r in metrics(config)] == [
        (r["step"], r["loss"], r["grad_norm"]) for r in before
    ]
    assert all((tensor == exported[name]).all() for name, tensor in weights(folder / "model").items())


@pytest.mark.parametrize("recipe", FORMATS)
def test_megatron_is_told_of_8_bit_linears_and_keeps_weights_in_bf16(recipe):
    config = load(["experiment=ssft_math_32b", f"layout.fp8={recipe}"])
    model = update_config_with_dtype_overrides(mixed_precision(config).dtype_config, megatron_config(config))
    model.__post_init__()  # Megatron's own checks
    assert (model.fp8, model.fp8_recipe, model.bf16) == (FORMATS[recipe], recipe, True)
    assert not model.fp8_param and not model.fp8_dot_product_attention


def test_settings_that_change_no_number_reach_megatron():
    """Whether these are in force no comparison of losses can tell."""
    overlap = ["layout.overlap_grad_reduce=true", "layout.overlap_param_gather=true"]
    less_memory = ["layout.recompute=full", "loss.chunk=7"]
    plain = load(["experiment=tiny", "layout=cpu1"])
    fast = load(["experiment=tiny", "layout=cpu1", "layout.compile=true", *less_memory, *overlap])
    for config, on in ((plain, False), (fast, True)):
        model, ddp = megatron_config(config), strategy(config).ddp_config
        assert model.compile is on and model.loss_chunk == (7 if on else plain.loss.chunk) != 1
        assert model.recompute_granularity == ("full" if on else None)
        assert ddp.overlap_grad_reduce is ddp.overlap_param_gather is on
