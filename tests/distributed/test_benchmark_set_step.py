"""The benchmark of a set step at a tiny shape: its counts and what it trains on, never its times."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmarks import models, set_steps
from benchmarks.set_step import Settings, main, problem
from benchmarks.settings import from_words
from tests.distributed.commands import record_of
from tests.distributed.flops import torch_count
from tests.distributed.ranks import run

TINY = (
    "layers=2 hidden=40 ffn=216 heads=5 groups=1 vocabulary=96 questions=2 tags=3 traces=2 prompt=5 prefix=8 trace=60 "
    "pack=80 match_pack=160 chunk=16 precision=fp32 repeats=1"
).split()


def test_both_steps_run_in_one_command_and_the_counted_ratio_stands_beside_the_measured_one():
    record = record_of(main, TINY)
    assert record["work"]["tokens_scored"] == 156  # 12 rows of prompt, tag and prefix but for the last token
    assert record["work"]["tokens_trained"] == 260
    for recompute, forwards in (("none", 3), ("full", 4)):
        ratio = record["ratio"][recompute]
        assert ratio["tokens"] == pytest.approx(1 + 156 / (forwards * 260))
        assert ratio["difference"] == pytest.approx(ratio["measured"] / ratio["flops"] - 1)
        assert record["losses"][f"plain, {recompute}"] != record["losses"][f"set, {recompute}"]


@contextlib.contextmanager
def tiny_steps(folder: Path) -> Iterator[tuple[models.Size, set_steps.Steps]]:
    s = from_words(Settings, TINY)
    size = models.Size.of(s, max_length=s.pack)
    with models.one_process() as device:
        models.write_transformers(size, folder, device, seed=0)
        model = models.read_megatron(size, folder, device, s.chunk)
        yield size, set_steps.Steps(model, set_steps.random_batch(s), s)


def gradients_of_two_steps(rank: int, folder: Path) -> list[torch.Tensor]:
    with tiny_steps(folder) as (_, steps):
        found = []
        for _ in range(2):
            steps.train(steps.batch.fixed_QM, "none")
            found.append(torch.cat([param.main_grad.flatten() for param in steps.model.parameters()]).clone())
            steps.update()
    return found


def test_every_step_has_the_same_gradient(tmp_path):
    first, second = run(gradients_of_two_steps, 1, tmp_path)[0]
    assert first.norm() > 0 and torch.equal(first, second)


def counted_by_torch(rank: int, folder: Path) -> dict[str, tuple[float, float]]:
    """(Counted by torch, counted here) of every part of the step."""
    with tiny_steps(folder) as (size, steps):
        work = set_steps.count(size.model_config(), steps.batch)
        found = {"matching": (torch_count(steps.match), work.matching)}
        for recompute, flops in work.training.items():
            found[recompute] = (torch_count(lambda r=recompute: steps.train(steps.batch.fixed_QM, r)), flops)
    return found


def test_the_count_is_torch_s_own(tmp_path):
    for part, (by_torch, here) in run(counted_by_torch, 1, tmp_path)[0].items():
        assert by_torch == pytest.approx(here, rel=1e-9), part


def test_a_loss_that_recomputing_changes_is_an_error():
    losses = {"plain, none": 1.0, "plain, full": 1.0, "set, none": 1.0, "set, full": 1.1}
    record = {"shape": {"precision": "fp32"}, "losses": losses}
    assert "recompute" in problem(record)
    assert "nan" in problem(record | {"losses": losses | {"plain, none": float("nan")}})
