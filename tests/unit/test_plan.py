"""The planner's arithmetic: published sizes of Qwen2.5, and figures worked out by hand."""

import subprocess
import sys
from dataclasses import replace
from functools import cache

import pytest

from nemo_forking.config import load
from nemo_forking.config.compose import CONF
from nemo_forking.errors import UserError
from nemo_forking.plan.activations import Sheet, held_micro_batches, layer_bytes
from nemo_forking.plan.head import logit_bytes
from nemo_forking.plan.memory import GIB, fits, stage_memory
from nemo_forking.plan.nearest import nearest
from nemo_forking.plan.parameters import model_parameters, rank_parameters
from nemo_forking.plan.plan import make_plan, refuse_what_cannot_fit
from nemo_forking.plan.rows import fullest
from nemo_forking.plan.state import rank_state
from recipes.plan import run

ONE_RANK = ("layout.tensor=1", "layout.sequence_parallel=false")  # nothing is split


@cache
def config(*overrides: str, experiment: str = "ssft_math_32b"):
    return load([f"experiment={experiment}", *overrides])


@pytest.mark.parametrize(
    ("model", "parameters"),  # numel() of Hugging Face's models
    [
        ("qwen25_0p5b", 494_032_768),
        ("qwen25_1p5b", 1_543_714_304),
        ("qwen25_7b", 7_615_616_512),
        ("qwen25_14b", 14_770_033_664),
        ("qwen25_32b", 32_763_876_352),
        ("qwen25_72b", 72_706_203_648),
    ],
)
def test_the_parameters_of_qwen(model, parameters):
    assert model_parameters(config(f"model={model}", *ONE_RANK).model) == parameters


def test_the_stages_together_have_the_model_and_norms_lie_on_every_tensor_rank():
    whole = config("layout=64xa100")
    parts = [rank_parameters(whole.model, whole.layout, stage) for stage in range(4)]
    norms = 64 * 2 * 5120 + 5120
    assert 8 * sum(parts) == 32_763_876_352 + 7 * norms
    assert parts[1] == parts[2] < parts[0] < parts[3]


def test_tied_embeddings_are_held_twice_by_a_pipeline_and_once_without():
    tied = config("model=qwen25_0p5b", *ONE_RANK)
    assert rank_parameters(tied.model, tied.layout, 0) == 494_032_768
    two = replace(tied.layout, pipeline=2)
    assert sum(rank_parameters(tied.model, two, stage) for stage in range(2)) == 494_032_768 + 151_936 * 896


@pytest.mark.parametrize(
    ("overrides", "gigabytes"),  # 18 bytes a parameter, 12 of them split over data x context parallel ranks
    [(["layout=8xh200"], 73.7), (["layout=16xh100"], 36.9), (["layout=8xh200", "layout.nodes=2"], 49.2)],
)
def test_weights_gradients_and_optimizer_of_32b(overrides, gigabytes):
    one = config(*overrides)
    state = rank_state(one.model, one.layout, 0)
    assert (state.weights + state.gradients + state.optimizer) / 1e9 == pytest.approx(gigabytes, abs=0.05)


def test_activations_of_a_32b_layer_by_hand():
    # 32,768 tokens, tensor 8 with sequence parallelism, bf16. Of a token, in numbers:
    norms = 2 * (2 * 5120 + 1) / 8  # input, output and one scale of two norms
    attention = (5120 + 1024 + (5120 + 2 * 1024) + 5120) / 8  # q, k, whole qkv, output
    rest = 4 * 128 + 3 * 27648 / 8  # sines and cosines; SwiGLU's two inputs and its product
    one = config("layout=8xb200")
    sheet = Sheet(tokens=32768, labels=32768)
    assert layer_bytes(one.model, one.layout, sheet, "selective") == 32768 * 2 * (norms + attention + rest)
    assert layer_bytes(one.model, one.layout, sheet, "full") == 32768 * 2 * 5120 / 8
    sums = 2 * 40 / 8
    assert layer_bytes(one.model, one.layout, sheet, "none") == 32768 * 2 * (norms + attention + rest + sums)


def test_logits_of_a_chunk():
    one = config("layout=8xh200")
    assert logit_bytes(one.model, one.layout, one.loss, 32768) == 1024 * 152064 / 8 * 4
    assert logit_bytes(one.model, one.layout, one.loss, 100) == 100 * 152064 / 8 * 4


@pytest.mark.parametrize(
    ("overrides", "labels"),  # rows of 300 + tag + 1,000 - 1 tokens in 8,192
    [
        ([], 6 * 1000),
        (["matching.include_tag=true"], 6 * 1001),
        (["matching.include_tag=true", "tags.spelling=text"], 6 * 1005),
        (["matching.include_tag=true", "batch.share_prompts=true"], 8 * 1001),  # where the prompts' tokens do not count
    ],
)
def test_the_labels_of_a_full_matching_micro_batch_by_hand(overrides, labels):
    sheet, _ = fullest(config("layout=8xh200", *overrides), without_gradient=True)
    assert (sheet.tokens, sheet.labels) == (8192, labels)


def test_micro_batches_held_by_the_stages_of_a_pipeline():
    layout = config("layout=64xa100").layout  # pipeline 4
    assert [held_micro_batches(layout, stage, 8) for stage in range(4)] == [4, 3, 2, 1]
    assert [held_micro_batches(layout, stage, 2) for stage in range(4)] == [2, 2, 2, 1]
    interleaved = replace(layout, virtual_pipeline=2)  # 2 x 3 + 4 + 1 chunks of half a stage on the first
    assert [held_micro_batches(interleaved, stage, 8) for stage in range(4)] == [5.5, 4.5, 3.5, 2.5]


def test_matching_makes_a_step_1_29_times_as_dear():
    plan = make_plan(config("layout=8xh200"))  # four traces of 8k tokens, T_r 1000, N 6
    assert (plan.scoring.rows, plan.training.rows) == (96, 16)
    ratio = (plan.scoring.model_flops + plan.training.model_flops) / plan.training.model_flops
    assert ratio == pytest.approx(1.29, abs=0.005)
    recomputed = (plan.scoring.computed_flops + plan.training.computed_flops) / plan.training.computed_flops
    assert recomputed == pytest.approx(1.22, abs=0.03)  # padding of the packs counted


def test_time_is_computed_flops_over_what_the_gpus_reach():
    plan = make_plan(config("layout=8xh200"))
    seconds = (plan.scoring.computed_flops + plan.training.computed_flops) / (8 * 989e12 * 0.4)
    assert plan.seconds == pytest.approx(seconds)
    assert plan.hours == pytest.approx(seconds * 1250 / 3600)
    assert make_plan(config("layout.peak_tflops=null")).hours is None


def test_a_pipeline_waits_for_its_fill_less_so_when_interleaved():
    deep = ["layout=16xh100", "layout.pipeline=2"]
    plain, interleaved = make_plan(config(*deep)), make_plan(config(*deep, "layout.virtual_pipeline=4"))
    m = plain.training.micro_batches
    assert plain.training.bubble == 1 / (m + 1)
    assert interleaved.training.bubble == 0.25 / (interleaved.training.micro_batches + 0.25)


def test_gfpo_trains_prompts_only_and_grpo_whole_rollouts():
    tag = make_plan(config(experiment="gfpo_math_32b"))
    every = make_plan(config(experiment="grpo_math_32b"))
    assert tag.training.tokens == 256 * 300 and every.training.tokens == 256 * 8 * (300 + 8000)
    assert tag.scoring.tokens == every.scoring.tokens == 256 * 300
    assert tag.training.model_flops == pytest.approx(3 * tag.scoring.model_flops)


@pytest.mark.parametrize("layout", ["8xb200", "8xh200", "16xh100", "32xh100", "64xa100"])
@pytest.mark.parametrize("experiment", ["ssft_math_32b", "gfpo_math_32b", "grpo_math_32b"])
def test_every_layout_for_gpus_fits_the_32b_runs(experiment, layout):
    assert fits(config(f"layout={layout}", experiment=experiment))


def test_what_cannot_fit_is_refused_with_the_nearest_that_does():
    tight = config("layout=64xa100", "layout.context=1")
    with pytest.raises(
        UserError, match=r"stage 0 needs 74\.\d GiB of 71\.0 .* nearest that fits: layout.recompute=full"
    ):
        refuse_what_cannot_fit(tight, make_plan(tight))
    one_node = config("layout=8xh200", "layout.memory_gib=79")
    assert nearest(one_node) == {"nodes": 2}
    assert nearest(config("layout=8xh200")) == {}
    assert fits(config("layout=8xh200", "layout.memory_gib=79", "layout.nodes=2"))
    assert nearest(config("layout.memory_gib=9")) is None
    assert nearest(config("layout=8xh200", *ONE_RANK)) == {
        "tensor": 4,
        "sequence_parallel": True,
    }


def test_without_a_known_memory_nothing_is_refused():
    laptop = config(experiment="tiny")
    plan = make_plan(laptop)
    refuse_what_cannot_fit(laptop, plan)
    assert plan.room is None and plan.hours is None
    assert plan.training.computed_flops > plan.training.model_flops


def test_matching_needs_no_activations_and_none_is_planned_for_rules_without_it():
    optimal, drawn = stage_memory(config()), stage_memory(config("matching=random"))
    assert 0 < optimal[0].matching < 3 * GIB and drawn[0].matching == 0
    assert make_plan(config("matching=random")).scoring is None


def test_the_recipe_prints_its_tables_and_ends_with_2_where_nothing_fits(capsys):
    assert run(["experiment=ssft_math_32b", "layout=8xh200"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("Plan of ssft_math_32b on 8 GPUs: tensor 8 x pipeline 1 x context 1 x data 1\n")
    assert "Memory of a rank" in out and "1.29 times" in out and "h for 1,250 steps" in out
    assert run(["experiment=ssft_math_32b", "layout=64xa100", "layout.context=1"]) == 2
    assert "nearest that fits" in capsys.readouterr().err
    assert run(["experiment=gfpo_math_32b"]) == 0
    assert "Generation, grading and refit are not planned" in capsys.readouterr().out


def test_a_plan_imports_neither_torch_nor_nemo():
    code = "import sys, recipes.plan, nemo_forking.plan.show; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=CONF.parent, capture_output=True, text=True, check=True)
    assert {"torch", "nemo", "megatron", "lightning"}.isdisjoint(done.stdout.split())
