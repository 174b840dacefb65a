"""The vocab-parallel cross-entropy on forked gloo ranks against dense float64 on one."""

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from nemo_forking.losses.cross_entropy import vocab_parallel_nll
from tests.distributed.ranks import run

REAL, PADDED, HIDDEN = 41, 48, 8


def example(rows: int) -> tuple[Tensor, ...]:
    random = torch.Generator().manual_seed(rows)
    hidden_RH = torch.randn(rows, HIDDEN, generator=random, dtype=torch.float64)
    weight_VH = torch.randn(PADDED, HIDDEN, generator=random, dtype=torch.float64)
    weight_VH[REAL:] = 50.0  # padding that would win every softmax
    label_R = torch.randint(0, REAL, (rows,), generator=random)
    return hidden_RH, weight_VH, label_R, torch.randn(rows, generator=random, dtype=torch.float64)


def dense(rows: int) -> tuple[Tensor, ...]:
    hidden_RH, weight_VH, label_R, grad_R = example(rows)
    hidden_RH.requires_grad_(), weight_VH.requires_grad_()
    nll_R = torch.nn.functional.cross_entropy(hidden_RH @ weight_VH[:REAL].t(), label_R, reduction="none")
    nll_R.backward(grad_R)
    return nll_R.detach(), hidden_RH.grad, weight_VH.grad


def shard(rank: int, rows: int, chunk: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """This rank's losses, its part of the hidden gradient, and its rows of the weight gradient."""
    world = dist.get_world_size()
    hidden_RH, weight_VH, label_R, grad_R = example(rows)
    start = rank * PADDED // world
    weight_VpH = weight_VH[start : start + PADDED // world].to(dtype).requires_grad_()
    hidden_RH = hidden_RH.to(dtype).requires_grad_()
    nll_R = vocab_parallel_nll(
        hidden_RH, weight_VpH, label_R, vocab_start=start, vocab_size=REAL, group=dist.group.WORLD, chunk=chunk
    )
    nll_R.backward(grad_R.to(dtype))
    return nll_R.detach(), hidden_RH.grad, weight_VpH.grad


@pytest.mark.parametrize(
    ("world", "rows", "chunk", "dtype", "tolerance"),
    [
        (2, 13, 4, torch.float64, 1e-11),
        (2, 13, 4, torch.float32, 1e-5),
        (2, 0, 4, torch.float32, 1e-5),
        (4, 13, 4, torch.float32, 1e-5),
        (4, 5, 64, torch.float64, 1e-11),
        (8, 13, 4, torch.float64, 1e-11),  # the last shard is padding only
    ],
)
def test_shards_equal_dense(world: int, rows: int, chunk: int, dtype: torch.dtype, tolerance: float):
    results = run(shard, world, rows, chunk, dtype)
    dense_R, dense_hidden_RH, dense_weight_VH = dense(rows)
    close = {"rtol": tolerance, "atol": tolerance}
    for nll_R, _, _ in results:
        assert torch.equal(nll_R, results[0][0])  # to the bit, on every rank
        torch.testing.assert_close(nll_R.double(), dense_R, **close)
    hidden_parts_RH = sum(grad_RH.double() for _, grad_RH, _ in results)  # the caller's copy-to-region does this
    torch.testing.assert_close(hidden_parts_RH, dense_hidden_RH, **close)
    torch.testing.assert_close(torch.cat([grad for _, _, grad in results]).double(), dense_weight_VH, **close)


def test_a_label_that_no_shard_owns_is_nan_on_every_rank():
    def padding_label(rank: int) -> list[bool]:
        hidden_RH, weight_VH, label_R, _ = example(3)
        label_R[1] = REAL  # a row that exists, but is padding
        weight_VpH = weight_VH[rank * 24 : rank * 24 + 24]
        nll_R = vocab_parallel_nll(
            hidden_RH, weight_VpH, label_R, vocab_start=rank * 24, vocab_size=REAL, group=dist.group.WORLD
        )
        return nll_R.isnan().tolist()

    assert run(padding_label, 2) == [[False, True, False]] * 2
