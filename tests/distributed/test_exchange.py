"""The exchange over forked gloo ranks: one answer however rows are dealt, two collectives, one error everywhere."""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from nemo_forking.matching.assignment import NonFiniteCost, solve
from nemo_forking.matching.cost import RowNotScored, cost_matrix
from nemo_forking.matching.exchange import broadcast_assignment, match
from tests.distributed.ranks import run

TRACES_Q, TAGS = [3, 1, 4], 4
ROWS = TAGS * sum(TRACES_Q)
NAMES = ["alpha", "beta", "gamma"]
KEYS = [(5, 9, name) for name in NAMES]


def scored() -> tuple[np.ndarray, np.ndarray]:
    """(sum, count) of every row; sums are dyadic, so that adding parts in any order is exact."""
    random = np.random.default_rng(0)
    return random.integers(1, 400, ROWS) / 8, random.integers(1, 9, ROWS).astype(np.float64)


def share(rank: int, world: int, parts: int) -> tuple[torch.Tensor, ...]:
    """The rows of one rank: each row lies, in `parts` unequal parts, on `parts` successive ranks; rank 1 gets none."""
    total, count = scored()
    holders = [r for r in range(world) if r != 1 or world < 3]
    rows = []
    for row in np.random.default_rng(1).permutation(ROWS):
        for part in range(parts):
            if holders[(row + part) % len(holders)] == rank:
                fraction = 1.0 if parts == 1 else (0.25, 0.75)[part]
                rows.append((row, fraction * total[row], fraction * count[row]))
    table = torch.tensor(np.array(rows).reshape(-1, 3))
    return table[:, 0].long(), table[:, 1], table[:, 2]


class Collectives(TorchDispatchMode):
    """Names of the c10d operations that ran."""

    def __init__(self):
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "c10d":
            self.names.append(func._schema.name)
        return func(*args, **(kwargs or {}))


def exchange(rank: int, world: int, parts: int) -> tuple:
    with Collectives() as collectives:
        sigma_QM, cost_QNM = match(
            *share(rank, world, parts), rows_max=2 * ROWS, traces_Q=TRACES_Q, n_tags=TAGS, keys=KEYS, names=NAMES
        )
    return sigma_QM, cost_QNM, collectives.names


@pytest.mark.parametrize(("world", "parts"), [(1, 1), (2, 1), (3, 2), (4, 1)])
def test_every_rank_gets_the_assignment_of_a_single_process(world: int, parts: int):
    cost_QNM = cost_matrix(*scored(), TRACES_Q, TAGS)
    sigma_QM = solve(cost_QNM, KEYS)
    results = run(exchange, world, world, parts)
    for theirs_QM, _, _ in results:
        assert theirs_QM.tolist() == sigma_QM.tolist() and theirs_QM.dtype == np.int64
    assert results[0][1].tolist() == cost_QNM.tolist()
    assert all(cost is None for _, cost, _ in results[1:])


def test_a_step_takes_one_gather_and_one_broadcast():
    for _, _, names in run(exchange, 2, 2, 1):
        assert names == ["c10d::gather_", "c10d::broadcast_"]


def errors(rank: int, change: str) -> BaseException:
    """What `match` raises on this rank when one rank's rows are spoilt."""
    row_R, sum_R, count_R = share(rank, 2, 1)
    spoilt = TAGS * 3 + 2  # question beta, tag 2, trace 0
    if change == "lost":
        keep = row_R != spoilt
        row_R, sum_R, count_R = row_R[keep], sum_R[keep], count_R[keep]
    elif change == "unknown row":
        row_R = row_R.masked_fill(row_R == spoilt, ROWS)
    else:
        sum_R = sum_R.masked_fill(row_R == spoilt, float(change))
    try:
        match(row_R, sum_R, count_R, rows_max=ROWS, traces_Q=TRACES_Q, n_tags=TAGS, keys=KEYS, names=NAMES)
    except (ArithmeticError, RuntimeError, ValueError) as error:
        return error
    raise AssertionError("nothing was raised")


@pytest.mark.parametrize("change", ["nan", "inf", "-inf"])
def test_a_cost_that_is_not_finite_raises_the_same_error_on_every_rank(change: str):
    for error in run(errors, 2, change):
        assert isinstance(error, NonFiniteCost)
        assert "question 1 of the batch (id 'beta')" in str(error)


def test_a_row_that_nobody_scored_is_named_on_every_rank():
    for error in run(errors, 2, "lost"):
        assert isinstance(error, RowNotScored)
        assert "question 1 of the batch (id 'beta') with tag 2 and trace 0" in str(error)


def test_any_other_failure_on_rank_0_ends_the_other_ranks_too():
    first, second = run(errors, 2, "unknown row")
    assert isinstance(first, ValueError) and "33 rows for 32" in str(first)
    assert isinstance(second, RuntimeError) and "failed on global rank 0" in str(second)


def test_more_rows_than_announced_are_refused_before_the_collective():
    def overfull(rank: int) -> str:
        row_R, sum_R, count_R = share(rank, 2, 1)
        with pytest.raises(ValueError, match="more than rows_max=3") as caught:
            match(row_R, sum_R, count_R, rows_max=3, traces_Q=TRACES_Q, n_tags=TAGS, keys=KEYS)
        return str(caught.value)

    assert len(run(overfull, 2)) == 2


def test_an_assignment_drawn_elsewhere_can_be_broadcast_alone():
    def draw(rank: int) -> list:
        sigma_QM = np.array([[2, 0], [1, -1]]) if rank == 0 else None
        return broadcast_assignment(sigma_QM, (2, 2), "cpu").tolist()

    assert run(draw, 2) == [[[2, 0], [1, -1]]] * 2
