"""The law of the set step: cost, assignment, loss and gradient are those of a dense float64 model, however laid out.

Tolerances are for float32: 1e-5 relative, the project's claim, at the first step, where both start from the same
weights; a little more after it. The gradient of every parameter is seen in the exported weights (runs.tiny).
"""

from pathlib import Path

import numpy as np
import pytest

from nemo_forking.config import Config
from tests.distributed import reference
from tests.distributed.runs import Ground, Step, in_fork, run, tiny
from tests.run_files import weights

TWO_STEPS = {"trainer.max_steps": 2, "optim.lr": 50.0, "optim.min_lr": 50.0}


def layout(processes: int, **sizes) -> dict:
    return {"layout.devices": processes} | {f"layout.{name}": size for name, size in sizes.items()}


UNPACKED = {"batch.packing": False}
TIED = {"model.tie_embeddings": True}
INTERLEAVED = layout(2, pipeline=2, virtual_pipeline=2)
SEQUENCE = layout(2, tensor=2, sequence_parallel=True)
LAYOUTS = {
    "one process": {},
    "one sequence a micro-batch": UNPACKED | {"batch.micro_batch_size": 1, "batch.match_micro_batch_size": 1},
    "three sequences a micro-batch": UNPACKED | {"batch.micro_batch_size": 3, "batch.match_micro_batch_size": 5},
    "one large micro-batch": {"batch.tokens": 2000, "batch.match_tokens": 4000, "loss.chunk": 10_000},
    "small micro-batches": {"batch.tokens": 48, "batch.match_tokens": 48, "loss.chunk": 1},
    "recompute": {"layout.recompute": "full"},
    "recompute attention": {"layout.recompute": "selective"},
    "plain optimizer": {"layout.distributed_optimizer": False},
    "tensor 2": layout(2, tensor=2),
    "tensor 2 unpacked": layout(2, tensor=2) | UNPACKED,
    "sequence": SEQUENCE,
    "sequence unpacked": SEQUENCE | UNPACKED,
    "pipeline 2": layout(2, pipeline=2),
    "pipeline 2 unpacked": layout(2, pipeline=2) | UNPACKED,
    "interleaved pipeline": INTERLEAVED,
    "interleaved pipeline, recompute": INTERLEAVED | {"layout.recompute": "full"},
    "context 2": layout(2, context=2),
    "context 2 unpacked": layout(2, context=2) | UNPACKED,
    "data 2": layout(2),
    "data 2 unpacked, plain optimizer": layout(2, distributed_optimizer=False) | UNPACKED,
    "data 2 overlapped": layout(2, overlap_grad_reduce=True, overlap_param_gather=True),
    "tensor 2 x pipeline 2": layout(4, tensor=2, pipeline=2),
    "sequence x pipeline 2, recompute": layout(4, tensor=2, pipeline=2, sequence_parallel=True, recompute="full"),
    "tensor 2 x data 2": layout(4, tensor=2),
    "sequence x context 2": layout(4, tensor=2, context=2, sequence_parallel=True),
    "interleaved pipeline x data 2": layout(4, pipeline=2, virtual_pipeline=2),
    "context 2 x data 2": layout(4, context=2),
}
TIED_LAYOUTS = ("one process", "tensor 2", "pipeline 2", "interleaved pipeline", "tensor 2 x pipeline 2", "data 2")

SETTINGS = {
    "trace": {"loss.normalise": "trace"},
    "sum": {"loss.normalise": "sum", "optim.lr": 1.0, "optim.min_lr": 1.0},
    "tag not learnt": {"loss.include_tag": False},
    "tag in the cost": {"matching.include_tag": True},
    "whole traces matched": {"matching.tokens": 1000},
    "one token matched": {"matching.tokens": 1},
    "random": {"matching.rule": "random"},
    "fixed by teacher": {"matching.rule": "fixed", "matching.fixed_by": "teacher"},
    "mixed": {"matching.rule": "mixed", "matching.mixed_tag": 2},
    "no tag": {"matching.rule": "none"},
    "one question": {"batch.questions": 1},
    "AdamW": {
        "optim.lr": 1e-3,
        "optim.min_lr": 1e-4,
        "optim.beta1": 0.9,
        "optim.beta2": 0.95,
        "optim.eps": 1e-3,
        "optim.weight_decay": 0.1,
        "optim.clip_grad": 1.0,
        "optim.warmup_fraction": 0.4,
        "trainer.max_steps": 5,
    },
}


@pytest.fixture(scope="module")
def dense(ground, tmp_path_factory):
    """The reference's steps and final weights, for the untied and the tied base."""
    folder = tmp_path_factory.mktemp("dense")
    bases = {False: ground.base, True: ground.tied_base}
    return {
        tied: in_fork(reference.train, tiny(ground, folder, TWO_STEPS | TIED | base_of(ground, tied))) for tied in bases
    }


def base_of(ground: Ground, tied: bool) -> dict:
    return {"model.tie_embeddings": tied, "model.base": str(ground.tied_base if tied else ground.base)}


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_gives_the_dense_result(name, ground, dense, tmp_path):
    config = tiny(ground, tmp_path / "run", TWO_STEPS | LAYOUTS[name])
    check(config, *dense[False])


@pytest.mark.parametrize("name", TIED_LAYOUTS)
def test_tied_embeddings_give_the_dense_result_under_every_layout(name, ground, dense, tmp_path):
    config = tiny(ground, tmp_path / "run", TWO_STEPS | LAYOUTS[name] | base_of(ground, tied=True))
    check(config, *dense[True])


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_of_cost_loss_and_optimizer_gives_the_dense_result(name, ground, tmp_path):
    config = tiny(ground, tmp_path / "run", TWO_STEPS | layout(2, tensor=2) | SETTINGS[name])
    ranks = run(config)
    drawn = None if config.matching.rule == "optimal" else [step.sigma_QM for step in ranks[0]]
    compare(config, ranks, *in_fork(reference.train, config, drawn))


@pytest.mark.parametrize("name", ["data 2", "data 2 unpacked, plain optimizer", "context 2", "interleaved pipeline"])
def test_ranks_without_a_pair_of_their_own_keep_step(name, ground, tmp_path):
    """One question a step: where it has a single trace, all ranks but one get padding only."""
    single = {"batch.questions": 1, "matching.rule": "random", "trainer.max_steps": 8}
    small_steps = {"optim.lr": 1.0, "optim.min_lr": 1.0}
    config = tiny(ground, tmp_path / "run", LAYOUTS[name] | single | small_steps)
    ranks = run(config)
    drawn = [step.sigma_QM for step in ranks[0]]
    assert any(sigma_QM.shape == (1, 1) for sigma_QM in drawn)
    compare(config, ranks, *in_fork(reference.train, config, drawn))


def check(config: Config, steps, end) -> None:
    compare(config, run(config), steps, end)


def compare(config: Config, ranks: list[list[Step]], steps: list[reference.DenseStep], end: dict) -> None:
    """Every rank's losses and assignments, rank 0's costs, and the weights that came of it."""
    for rank, seen in enumerate(ranks):
        assert len(seen) == len(steps)
        for number, (got, wanted) in enumerate(zip(seen, steps, strict=True)):
            tolerance = 1e-5 if number == 0 else 1e-4
            np.testing.assert_array_equal(got.sigma_QM, wanted.sigma_QM)
            np.testing.assert_allclose(got.grad_norm, wanted.grad_norm, rtol=tolerance)
            if rank == 0:
                np.testing.assert_allclose(got.loss, wanted.loss, rtol=tolerance)
                assert (got.cost_QNM is not None) or config.matching.rule != "optimal" or config.matching.every > 1
                if got.cost_QNM is not None:  # a question that was not scored has none
                    scored_Q = ~np.isnan(got.cost_QNM[:, 0, 0])
                    np.testing.assert_allclose(got.cost_QNM[scored_Q], wanted.cost_QNM[scored_Q], rtol=tolerance)
    tags = slice(98, 98 + config.tags.count)  # their rows do not start from the base's
    compare_weights(config, end, len(steps), (tags, slice(98)))


def compare_weights(config: Config, end: dict, steps: int, parts: tuple[slice, ...]) -> None:
    """How far every weight has moved from the base's; matrices of vocabulary rows part by part."""
    start, got = weights(Path(config.model.base)), weights(Path(config.run.folder) / "model")
    assert set(got) == set(start)
    for name, tensor in got.items():
        before = start[name].double().numpy()
        moved, expected = tensor.double().numpy() - before, end[name] - before
        for part in parts if len(before) == config.model.vocab_size else (slice(None),):
            error = np.linalg.norm(moved[part] - expected[part])
            rounding = steps * 2**-24 * np.linalg.norm(end[name][part])  # each step's, of a float32 weight
            assert error <= 1e-4 * np.linalg.norm(expected[part]) + rounding, name
