"""The learning rate: warm-up, cosine, floor."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_forking.training.schedule import learning_rate


def rate(step: int, steps: int = 100, warmup: float = 0.1, peak: float = 1.0, floor: float = 0.2) -> float:
    return learning_rate(step, peak=peak, floor=floor, steps=steps, warmup_fraction=warmup)


def test_it_warms_up_in_a_straight_line_and_moves_at_the_first_step():
    assert [rate(step) for step in range(1, 11)] == pytest.approx([0.1 * step for step in range(1, 11)])


def test_it_falls_by_a_cosine_to_the_floor_at_the_last_step():
    assert rate(55) == pytest.approx(0.6)  # half-way between steps 10 and 100, half-way between peak and floor
    assert rate(40) == pytest.approx(0.2 + 0.8 * (1 + math.cos(math.pi / 3)) / 2)
    assert rate(100) == pytest.approx(0.2)
    assert rate(1000) == pytest.approx(0.2)


def test_without_warm_up_the_first_step_has_the_peak():
    assert rate(1, warmup=0.0) == 1.0


def test_a_run_of_one_step_trains_at_the_peak():
    assert rate(1, steps=1, warmup=0.0) == rate(1, steps=1, warmup=0.5) == 1.0


@given(st.integers(1, 300), st.floats(0, 0.99), st.floats(0, 1))
def test_it_rises_to_the_peak_once_and_never_leaves_its_bounds(steps, warmup, floor):
    rates = [rate(step, steps, warmup, floor=floor) for step in range(1, steps + 1)]
    top = rates.index(max(rates))
    assert max(rates) == 1.0 and min(rates[top:]) >= floor - 1e-12
    assert rates[: top + 1] == sorted(rates[: top + 1]) and rates[top:] == sorted(rates[top:], reverse=True)
