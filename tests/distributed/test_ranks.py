"""The helper the distributed tests stand on."""

import time

import pytest
import torch
import torch.distributed as dist

from tests.distributed.ranks import run


def test_results_come_back_in_rank_order_after_a_collective():
    def total(rank: int, offset: int) -> tuple[int, float]:
        value = torch.tensor([float(rank + offset)])
        dist.all_reduce(value)
        return rank, value.item()

    assert run(total, 2, 10) == [(0, 21.0), (1, 21.0)]


def test_a_rank_that_finishes_at_once_does_not_break_the_others_start():
    for _ in range(10):
        assert run(lambda rank: rank, 3) == [0, 1, 2]


def test_backward_works_in_a_rank_forked_after_a_backward_in_the_parent():
    torch.ones(3, requires_grad=True).sum().backward()

    def gradient(rank: int) -> list[float]:
        x = torch.ones(2, requires_grad=True)
        (x * rank).sum().backward()
        return x.grad.tolist()

    assert run(gradient, 2) == [[0.0, 0.0], [1.0, 1.0]]


def test_the_first_failure_is_raised_with_its_traceback():
    def fail(rank: int) -> None:
        if rank == 1:
            raise KeyError("the cause")
        dist.barrier()  # fails because rank 1 is gone

    with pytest.raises(KeyError, match="the cause") as caught:
        run(fail, 2)
    assert "in fail" in caught.value.__notes__[0] and "the cause" in caught.value.__notes__[0]


def test_hung_ranks_are_ended_and_shown():
    def hang(rank: int) -> None:
        if rank == 1:
            time.sleep(600)

    with pytest.raises(TimeoutError, match="in hang"):
        run(hang, 2, timeout=2.0)
