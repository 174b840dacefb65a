"""The benchmark of the training step at a tiny shape: losses, gradients, counts, memory; never its times."""

from pathlib import Path

import pytest
import torch

from benchmarks import models, split, training_ways
from benchmarks.settings import from_words
from benchmarks.training_step import PLAIN, Settings, disagreement, main
from tests.distributed.commands import record_of
from tests.distributed.flops import torch_count
from tests.distributed.ranks import run

TINY = (
    "layers=2 hidden=40 ffn=216 heads=5 groups=1 vocabulary=96 lengths=[48,96] prompt=9 chunk=16 precision=fp32 "
    "repeats=1"
).split()
OURS = ["ours, none", "ours, selective", "ours, full"]


def test_every_way_has_the_plain_loss_and_gradients():
    for length in record_of(main, TINY)["lengths"]:
        ways = length["ways"]
        assert list(ways) == [*PLAIN, *OURS] and not length["no_memory"]
        for name in OURS:
            assert ways[name]["loss_difference"] < 1e-6 and ways[name]["gradient_difference"] < 1e-4
            assert ways[name]["share"] == pytest.approx(ways[name]["flops_per_second"] / length["ceiling"])
        full, selective, none = (ways[name]["peak_bytes"] for name in reversed(OURS))
        assert full < selective < none
        assert ways["plain"]["peak_bytes"] < ways["plain, keeping all"]["peak_bytes"]


def test_in_bf16_every_way_starts_from_no_gradient_and_ends_with_the_plain_one():
    length = record_of(main, [*TINY, "precision=bf16", "lengths=[48]", "profile=true"])["lengths"][0]
    for name in OURS:
        assert length["ways"][name]["gradient_difference"] < 0.1
        assert sum(length["split"][name].values()) == pytest.approx(1)


class TooSmall(training_ways.Plain):
    """As on a device that has no room for all the logits."""

    def step(self, row, *, keep=False, our_loss=False):
        loss = super().step(row, keep=keep, our_loss=our_loss)
        if not our_loss:
            raise torch.OutOfMemoryError("halfway, with gradients left behind")
        return loss


def bench(folder: Path, device: torch.device, plain: type) -> training_ways.Bench:
    s = from_words(Settings, TINY)
    size = models.Size.of(s, max_length=96)
    reference = models.write_transformers(size, folder, device, seed=0)
    ours = training_ways.Ours(models.read_megatron(size, folder, device, s.chunk))
    return training_ways.Bench(size, s, {False: ours}, plain(reference, s.chunk), device)


class WrongLoss(training_ways.Plain):
    """As if this project's loss had a wrong gradient."""

    def step(self, row, *, keep=False, our_loss=False):
        loss = super().step(row, keep=keep, our_loss=our_loss)
        if our_loss:
            for param in self.model.parameters():
                param.grad.mul_(2)
        return loss


def tried(rank: int, folder: Path, plain: type) -> dict[str, training_ways.Found]:
    with models.one_process() as device:
        tiny = bench(folder, device, plain)
        return tiny.try_all(tiny.row(48))


def test_ours_is_compared_with_transformers_own_loss(tmp_path):
    found = run(tried, 1, tmp_path, WrongLoss)[0]
    assert list(found) == [*PLAIN, *OURS]
    assert max(found[name].gradient_difference for name in OURS) < 1e-4


def test_a_way_without_room_is_left_out_and_the_others_are_compared_with_one_that_has_it(tmp_path):
    found = run(tried, 1, tmp_path, TooSmall)[0]
    assert list(found) == ["plain, our loss", *OURS]
    assert max(found[name].gradient_difference for name in OURS) < 1e-4


def counts(rank: int, folder: Path) -> tuple[float, float, float, float]:
    """Torch's count of our step and of the plain one, ours of the step, and of the head's forward."""
    with models.one_process() as device:
        tried = bench(folder, device, training_ways.Plain)
        row = tried.row(48)
        calls = tried.calls(row)
        head = 2 * 40 * 96 * row.counted
        return torch_count(calls["ours, none"]), torch_count(calls["plain, keeping all"]), tried.model_flops(row), head


def test_counted_flops_are_torch_s_but_for_logits_made_twice_or_where_nothing_counts(tmp_path):
    ours, plain, model, head = run(counts, 1, tmp_path)[0]
    assert ours - head == pytest.approx(model, rel=1e-9)
    angles = 2 * 48 * 8 // 2  # transformers' rotary angles are a product of positions and frequencies
    assert plain - angles - 3 * head * 8 / 40 == pytest.approx(model, rel=1e-9)  # 48 places, of which 40 count


def test_the_head_is_told_from_other_products_by_the_vocabulary():
    hidden, inner, head = torch.randn(64, 128), torch.randn(256, 128), torch.randn(1000, 128)
    shares = split.shares(lambda: ((hidden @ inner.t()).relu(), hidden @ head.t()), torch.device("cpu"), 1000)
    assert set(shares) >= {"head", "matrix products", "element-wise"}
    assert sum(shares.values()) == pytest.approx(1)


@pytest.mark.parametrize("difference", [0.5, float("nan")])
def test_losses_and_gradients_that_differ_are_errors(difference):
    good = {"loss_difference": 1e-7, "gradient_difference": 1e-6}
    for wrong, word in (("loss_difference", "losses"), ("gradient_difference", "gradients")):
        ways = {"plain": dict.fromkeys(good), "ours, none": good | {wrong: difference}}
        record = {"shape": {"precision": "bf16"}, "lengths": [{"tokens": 8, "ways": ways}]}
        assert word in disagreement(record)
    record["lengths"][0]["ways"].pop("plain")
    assert "nothing was compared" in disagreement(record)
