"""Assignment rules against brute force over all injections."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_forking.errors import UserError
from nemo_forking.matching.assignment import NonFiniteCost, assign, permutation, solve, total_cost

KEY = (1, 2, "question")


@st.composite
def costs(draw: st.DrawFn, absent: bool = True) -> np.ndarray:
    """N x M costs with 1 <= M <= N <= 5: small integers (many ties) or dyadic fractions, so that sums are exact."""
    n_tags = draw(st.integers(1, 5))
    n_traces = draw(st.integers(1, n_tags))
    top = draw(st.sampled_from([0, 1, 3, 4096]))
    cell = st.integers(0, top).map(lambda value: value / 64)
    cost_NM = np.array(draw(st.lists(cell, min_size=n_tags * n_traces, max_size=n_tags * n_traces)), np.float64)
    cost_NM = cost_NM.reshape(n_tags, n_traces)
    if absent:
        gone = draw(st.sets(st.integers(0, n_traces - 1), max_size=n_traces - 1))
        cost_NM[:, sorted(gone)] = np.inf
    return cost_NM


def every_injection(cost_NM: np.ndarray) -> list[tuple[float, tuple[int, ...]]]:
    """(total cost, sigma) of every injection of the present traces, the independent oracle."""
    n_tags, n_traces = cost_NM.shape
    present = [m for m in range(n_traces) if not np.isinf(cost_NM[0, m])]
    found = []
    for tags in permutations(range(n_tags), len(present)):
        sigma = [-1] * n_traces
        for m, tag in zip(present, tags, strict=True):
            sigma[m] = tag
        found.append((sum(cost_NM[tag, m] for m, tag in zip(present, tags, strict=True)), tuple(sigma)))
    return found


def optimal(cost_NM: np.ndarray, key: tuple = KEY) -> np.ndarray:
    return assign("optimal", cost_NM, n_tags=cost_NM.shape[0], n_traces=cost_NM.shape[1], key=key)


@settings(max_examples=300, deadline=None)
@given(costs(), st.integers(0, 99))
def test_optimal_equals_the_cheapest_of_all_injections(cost_NM: np.ndarray, step: int):
    injections = every_injection(cost_NM)
    sigma_M = optimal(cost_NM, (0, step, "q"))
    assert tuple(sigma_M) in {sigma for _, sigma in injections}  # injective, -1 exactly where absent
    assert total_cost(cost_NM, sigma_M) == min(injections)[0]


@settings(max_examples=200, deadline=None)
@given(costs(), st.randoms(use_true_random=False))
def test_permuted_tags_and_traces_give_the_permuted_assignment(cost_NM: np.ndarray, random):
    tags, traces = (random.sample(range(n), n) for n in cost_NM.shape)
    permuted_NM = cost_NM[np.ix_(tags, traces)]
    sigma_M, permuted_M = optimal(cost_NM), optimal(permuted_NM)
    assert total_cost(permuted_NM, permuted_M) == total_cost(cost_NM, sigma_M)
    best = min(cost for cost, _ in every_injection(cost_NM))
    if sum(cost == best for cost, _ in every_injection(cost_NM)) == 1:
        expected = [tags.index(sigma_M[m]) if sigma_M[m] >= 0 else -1 for m in traces]
        assert permuted_M.tolist() == expected


def test_solve_handles_questions_with_different_numbers_of_traces():
    cost_QNM = np.full((3, 3, 3), np.inf)
    cost_QNM[0] = [[0, 9, 9], [9, 9, 0], [9, 0, 9]]
    cost_QNM[1, :, 1] = [5, 1, 3]
    cost_QNM[2, :, :2] = [[1, 1], [2, 5], [9, 9]]
    sigma_QM = solve(cost_QNM, [(0, 0, q) for q in range(3)])
    assert sigma_QM.tolist() == [[0, 2, 1], [-1, 1, -1], [1, 0, -1]]
    assert sigma_QM.dtype == np.int64


@pytest.mark.parametrize("shape", [(3, 3), (4, 2), (4, 1)])
@pytest.mark.parametrize("rule", ["optimal", "random"])
def test_equal_costs_and_random_draws_are_uniform_over_injections(rule: str, shape: tuple[int, int]):
    n_tags, n_traces = shape
    draws = 6000
    counts = dict.fromkeys(permutations(range(n_tags), n_traces), 0)
    for step in range(draws):
        sigma_M = assign(rule, np.ones(shape), n_tags=n_tags, n_traces=n_traces, key=(3, step, "q"))
        counts[tuple(sigma_M)] += 1
    expected = draws / len(counts)
    chi2 = sum((count - expected) ** 2 / expected for count in counts.values())
    freedom = len(counts) - 1
    assert chi2 < freedom + 5 * (2 * freedom) ** 0.5  # five standard deviations of chi-square


def test_a_tie_between_two_tags_is_broken_either_way_and_the_clear_winner_kept():
    cost_NM = np.array([[1.0, 5.0], [1.0, 5.0], [7.0, 0.0]])
    seen = {tuple(optimal(cost_NM, (0, step, "q"))) for step in range(40)}
    assert seen == {(0, 2), (1, 2)}


def test_the_choice_depends_on_seed_step_and_question_and_on_nothing_else():
    ones_NM = np.ones((6, 4))
    base = optimal(ones_NM, (1, 1, "a")).tolist()
    assert base == optimal(ones_NM, (1, 1, "a")).tolist()
    for other in [(2, 1), (1, 2)]:
        assert any(optimal(ones_NM, (*other, name)).tolist() != base for name in "abc")
    assert optimal(ones_NM, (1, 1, "b")).tolist() != base
    assert permutation(6, (1, 1, "1")).tolist() != permutation(6, (1, 1, 1)).tolist()  # an id is not a number


def test_permutations_are_the_same_on_every_platform():
    assert permutation(6, (1, 2, "q")).tolist() == [4, 0, 5, 2, 1, 3]  # golden: Philox-4x64 keyed by BLAKE2b


@pytest.mark.parametrize(
    "cost_NM",
    [
        [[np.nan, 1.0], [1.0, 1.0]],
        [[-np.inf, 1.0], [1.0, 1.0]],
        [[np.inf, 1.0], [1.0, 1.0]],
        [[np.nan, 1.0], [np.nan, 1.0]],
        [[np.inf, np.inf], [np.inf, np.inf]],
    ],
)
def test_a_cost_that_is_not_finite_names_the_question(cost_NM: list):
    cost_QNM = np.stack([np.ones((2, 2)), np.array(cost_NM)])
    with pytest.raises(NonFiniteCost, match="question 1 of the batch .id 'algebra-7'. has a matching cost") as caught:
        solve(cost_QNM, [(0, 0, "a"), (0, 0, "b")], names=["algebra-6", "algebra-7"])
    assert caught.value.question == 1


def test_fixed_by_order_gives_trace_j_tag_j():
    assert assign("fixed", None, n_tags=6, n_traces=4, key=KEY).tolist() == [0, 1, 2, 3]


def test_fixed_by_teacher_gives_teacher_t_tag_t():
    sigma_M = assign("fixed", None, n_tags=4, n_traces=3, key=KEY, teachers=[2, 0, 3], fixed_by="teacher")
    assert sigma_M.tolist() == [2, 0, 3]


def test_mixed_gives_one_tag_and_none_gives_no_tag_even_to_more_traces_than_tags():
    assert assign("mixed", None, n_tags=2, n_traces=3, key=KEY, mixed_tag=1).tolist() == [1, 1, 1]
    assert assign("none", None, n_tags=2, n_traces=3, key=KEY).tolist() == [-1, -1, -1]


@pytest.mark.parametrize("rule", ["optimal", "random", "fixed"])
def test_more_traces_than_tags_is_refused(rule: str):
    with pytest.raises(UserError, match="'question' has 3 traces but there are only 2 tags.*raise tags.count"):
        assign(rule, np.ones((2, 3)), n_tags=2, n_traces=3, key=KEY)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rule": "optimum"}, "matching.rule is 'optimum'.*did you mean 'optimal'"),
        ({"rule": "hungry"}, "must be one of optimal, random, fixed, mixed, none"),
        ({"rule": "mixed", "mixed_tag": 4}, "matching.mixed_tag is 4; it must be a tag index, 0 to 3"),
        ({"rule": "fixed", "fixed_by": "length"}, "matching.fixed_by is 'length'; it must be order or teacher"),
        ({"rule": "fixed", "fixed_by": "teacher", "teachers": [0, 4]}, "teacher number 4 .* none among 4 tags"),
        ({"rule": "fixed", "fixed_by": "teacher", "teachers": [1, 1]}, "'question' has several traces of one teacher"),
    ],
)
def test_bad_rules_say_what_to_change(arguments: dict, message: str):
    with pytest.raises(UserError, match=message):
        assign(cost_NM=None, n_tags=4, n_traces=2, key=KEY, **arguments)
