"""The benchmark of policy updates at a tiny shape: what it claims of gradients, work and memory, never of time."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import models, steps, updates
from benchmarks.policy_update import PLAIN, disagreement, main
from tests.distributed.commands import record_of
from tests.distributed.ranks import run

TINY = (
    "layers=2 hidden=32 ffn=64 heads=4 groups=2 vocabulary=512 questions=5 tags=3 rollouts=6 prompt=12 "
    "completions=[16,64] pack=200 fork_pack=40 chunk=8 rows=4 precision=fp32 repeats=1"
).split()


def test_gfpo_reads_prompts_alone_and_every_gradient_is_that_of_the_plain_model():
    short, long = record_of(main, TINY)["lengths"]
    for length in (short, long):
        ways = length["ways"]
        assert set(length["gradient_difference"]) == set(PLAIN)
        assert max(length["gradient_difference"].values()) < 1e-4
        assert ways["gfpo"]["tokens"] < ways["grpo"]["tokens"] / 6  # each of 6 rollouts has the prompt, and more
        assert ways["gfpo"]["at_once"] <= 40 and ways["gfpo"]["head_tokens"] == 5 * 3
        assert ways["grpo"]["head_tokens"] == 5 * 6 * (1 + length["completion"])  # the tag and the completion
        assert ways["gfpo"]["peak_bytes"] < ways["grpo_recompute"]["peak_bytes"] < ways["grpo"]["peak_bytes"]
    assert short["ways"]["gfpo"]["tokens"] == long["ways"]["gfpo"]["tokens"]
    assert short["ways"]["gfpo"]["peak_bytes"] == long["ways"]["gfpo"]["peak_bytes"]
    assert long["arithmetic"]["tokens"] > 2 * short["arithmetic"]["tokens"]


def differences(rank: int, folder: Path) -> list[float]:
    """Of both methods: with the same rewards, and with one that is another."""
    size = models.Size(1, 16, 32, 2, 1, 64, 64, torch.float32)
    with models.one_process() as device:
        plain = models.write_transformers(size, folder, device, seed=0)
        ours = models.read_megatron(size, folder, device, chunk=8)
        for param in (*ours.parameters(), *plain.parameters()):
            param.grad = torch.zeros_like(param)
        prompts = [torch.arange(n, n + 5).numpy() for n in (3, 30)]
        given = updates.random_rollouts(ours, prompts, steps.last_tags(64, 3), rollouts=6, tokens=9, seed=0)
        reward_QG = given.batch.reward_QG.copy()
        reward_QG[0, 0] = 1 - reward_QG[0, 0]
        other = replace(given, batch=replace(given.batch, reward_QG=reward_QG))
        found = []
        for learnt_from in (given, other):
            for every in (False, True):
                updates.plain_gfpo(plain, learnt_from, every)
                updates.ours(ours, updates.gfpo(given, every), pack=None)
                found.append(steps.gradient_difference(ours, plain))
            updates.plain_grpo(plain, learnt_from, rows=6)
            updates.ours(ours, updates.grpo(given), pack=None)
            found.append(steps.gradient_difference(ours, plain))
        return found


def test_one_reward_that_is_another_shows_in_the_gradients(tmp_path):
    found = run(differences, 1, tmp_path)[0]
    assert max(found[:3]) < 1e-4
    assert min(found[3:]) > 0.1


@pytest.mark.parametrize("difference", [0.1, float("nan")])
def test_gradients_that_differ_are_an_error(difference):
    lengths = [{"completion": 8, "gradient_difference": {"gfpo": 1e-7, "grpo": difference}}]
    message = disagreement({"shape": {"precision": "fp32"}, "lengths": lengths})
    assert "8 tokens" in message and "GRPO" in message
