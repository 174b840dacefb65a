"""The benchmark of a set step at a tiny shape: its counts and what it trains on, never its times."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks import models, set_steps
from benchmarks.set_step import Settings, main, problem
from benchmarks.settings import from_words
from tests.distributed.commands import run_command
from tests.distributed.flops import torch_count
from tests.distributed.ranks import run

TINY = (
    "layers=2 hidden=40 ffn=216 heads=5 groups=1 vocabulary=96 questions=2 tags=3 traces=2 prompt=5 prefix=8 trace=60 "
    "pack=80 match_pack=160 chunk=16 precision=fp32 repeats=1"
).split()


def test_both_steps_run_in_one_command_and_the_counted_ratio_stands_beside_the_measured_one():
    status, printed = run_command(main, TINY)
    assert status == 0
    record = json.loads(printed.splitlines()[-1])
    assert record["work"]["tokens_scored"] == 156  # 12 rows of prompt, tag and prefix but for the last token
    assert record["work"]["tokens_trained"] == 260
    for recompute, forwards in (("none", 3), ("full", 4)):
        ratio = record["ratio"][recompute]
        assert ratio["tokens"] == pytest.approx(1 + 156 / (forwards * 260))
        assert ratio["difference"] == pytest.approx(ratio["measured"] / ratio["flops"] - 1)
        assert record["losses"][f"plain, {recompute}"] != record["losses"][f"set, {recompute}"]


def counted_by_torch(rank: int, folder: Path) -> dict[str, tuple[float, float]]:
    """(Counted by torch, counted here) of every part of the step."""
    s = from_words(Settings, TINY)
    size = models.Size(s.layers, s.hidden, s.ffn, s.heads, s.groups, s.vocabulary, s.pack, torch.float32)
    with models.one_process() as device:
        models.write_transformers(size, folder, device, seed=0)
        batch = set_steps.random_batch(s)
        steps = set_steps.Steps(models.read_megatron(size, folder, device, s.chunk), batch, s)
        work = set_steps.count(size.model_config(), batch)
        found = {"matching": (torch_count(steps.match), work.matching)}
        for recompute, flops in work.training.items():
            found[recompute] = (torch_count(lambda r=recompute: steps.train(batch.fixed_QM, r)), flops)
    return found


def test_the_count_is_torch_s_own(tmp_path):
    for part, (by_torch, here) in run(counted_by_torch, 1, tmp_path)[0].items():
        assert by_torch == pytest.approx(here, rel=1e-9), part


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("trace_s=9", "unknown key trace_s; did you mean traces?"),
        ("traces=7", "traces=7 is more than tags=6"),
        ("pack=100", "pack=100 is less than a row's "),
        ("match_pack=100", "match_pack=100 is less than a row's "),
    ],
)
def test_a_word_it_does_not_understand_is_answered_before_anything_runs(word, message, capsys):
    assert main([word]) == 2
    assert message in capsys.readouterr().err


def test_a_loss_that_recomputing_changes_is_an_error():
    losses = {"plain, none": 1.0, "plain, full": 1.0, "set, none": 1.0, "set, full": 1.1}
    record = {"shape": {"precision": "fp32"}, "losses": losses}
    assert "recompute" in problem(record)
    assert "nan" in problem(record | {"losses": losses | {"plain, none": float("nan")}})
