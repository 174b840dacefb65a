"""The reported model FLOPs: against a count written out by hand, and the figure known for Qwen2.5-32B."""

import numpy as np
import pytest

from nemo_forking.config import load
from nemo_forking.data.batches import Row
from nemo_forking.plan.flops import crossover, forward_flops, step_flops


def row(tokens: int, counted: int) -> Row:
    return Row(np.zeros(tokens + 1, dtype=np.int64), first=tokens + 1 - counted)


def test_a_row_costs_its_linears_its_causal_attention_and_the_head_at_its_labels():
    model = load(experiment="tiny").model  # hidden 64, ffn 256, 4 heads of 16, 3 layers, 128 rows
    per_token = 2 * (64 * 64 * 4 + 3 * 64 * 256)
    attention = 2 * 2 * 64 * 10 * 10 / 2
    assert forward_flops(model, row(10, 4)) == 3 * (10 * per_token + attention) + 2 * 64 * 128 * 4


def test_at_the_crossover_attention_doubles_a_row():
    model = load(experiment="ssft_math_32b").model
    length = round(crossover(model))
    assert length == 95232
    assert forward_flops(model, row(length, 0)) == 2 * length * forward_flops(model, row(1, 0)) * length / (length + 1)


def test_training_counts_three_forwards_and_scoring_one():
    model = load(experiment="tiny").model
    once = forward_flops(model, row(10, 4))
    assert step_flops(model, [row(10, 4)] * 6, [row(10, 4)]) == 9 * once


def test_a_shared_prompt_is_counted_once():
    """Two rows of 10 tokens share 4: 16 tokens, and the pairs of (query, key) that are left of two triangles."""
    model = load(experiment="tiny").model
    per_token = 2 * (64 * 64 * 4 + 3 * 64 * 256)
    attention = 2 * 2 * 64 * (4 * 4 / 2 + 2 * (6 * 4 + 6 * 6 / 2))
    expected = 3 * (16 * per_token + attention) + 2 * (2 * 64 * 128 * 3)
    assert step_flops(model, [row(10, 3)] * 2, [], spared=[4]) == expected


@pytest.mark.parametrize(("length", "giga_flops"), [(2048, 196), (8192, 208), (32768, 256)])
def test_qwen_32b_trains_at_the_known_flops_per_token(length, giga_flops):
    model = load(experiment="ssft_math_32b").model
    trained = step_flops(model, [], [row(length, length)])
    assert trained / length / 1e9 == pytest.approx(giga_flops, rel=0.01)
