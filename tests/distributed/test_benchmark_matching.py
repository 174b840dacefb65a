"""The matching benchmark at a tiny shape: what it claims of costs and memory, never of time."""

import pytest
import torch

from benchmarks import models, ways  # noqa: F401 - imported once here, inherited by the fork
from benchmarks.matching import disagreement, main
from benchmarks.meter import peak_bytes
from tests.distributed.commands import record_of

TINY = (
    "layers=2 hidden=32 ffn=64 heads=4 groups=2 vocabulary=8192 questions=2 prompt=20 prefix=40 "
    "pack=256 chunk=8 rows=4 precision=fp32 repeats=1"
).split()


def test_all_ways_give_the_same_costs_and_ours_needs_a_third_of_the_memory_at_most():
    record = record_of(main, TINY)
    assert record["pairs"] == 2 * 6 * 4
    assert set(record["time_ratio"]) == {"plain", "batched"}
    for name in ("plain", "batched"):
        assert record["cost_difference"][name] < min(1e-5, record["cost_spread"] / 100)
        assert record["memory_ratio"][name] < 1 / 3
        assert record["ways"]["ours"]["head_tokens"] < record["ways"][name]["head_tokens"]


def test_the_meter_counts_what_is_alive_at_once_and_not_what_was_there_before():
    before = torch.zeros(100)

    def call() -> torch.Tensor:
        doubled = before.view(10, 10) * 2  # 400 bytes; the view none
        doubled.add_(1)
        larger = torch.cat([doubled, doubled, doubled])  # 1200 more: the peak
        del doubled
        return larger.sum()

    peak, total = peak_bytes(call, torch.device("cpu"))
    assert (peak, total.item()) == (1600, 300.0)


@pytest.mark.parametrize("difference", [0.1, float("nan")])
def test_costs_that_differ_are_an_error(difference):
    record = {"shape": {"precision": "fp32"}, "cost_difference": {"plain": 1e-7, "batched": difference}}
    assert "batched" in disagreement(record)
