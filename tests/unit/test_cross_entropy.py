"""The chunked cross-entropy against dense float64, and the memory it takes."""

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nemo_forking.losses.cross_entropy import vocab_parallel_nll


def example(rows: int, vocabulary: int = 37, hidden: int = 8, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    """(hidden, weight, label, upstream gradient), seeded; logits spread over a few nats."""
    random = torch.Generator().manual_seed(rows)
    hidden_RH = torch.randn(rows, hidden, generator=random, dtype=torch.float64).to(dtype)
    weight_VH = torch.randn(vocabulary, hidden, generator=random, dtype=torch.float64).to(dtype)
    label_R = torch.randint(0, vocabulary, (rows,), generator=random)
    return hidden_RH, weight_VH, label_R, torch.randn(rows, generator=random, dtype=torch.float64)


def value_and_gradients(function, hidden_RH: Tensor, weight_VH: Tensor, grad_R: Tensor) -> tuple[Tensor, ...]:
    hidden_RH, weight_VH = hidden_RH.detach().requires_grad_(), weight_VH.detach().requires_grad_()
    nll_R = function(hidden_RH, weight_VH)
    nll_R.backward(grad_R.to(nll_R.dtype))
    return nll_R.detach(), hidden_RH.grad, weight_VH.grad


def dense(hidden_RH: Tensor, weight_VH: Tensor, label_R: Tensor, grad_R: Tensor, real: int | None = None):
    """The oracle: all logits at once, torch's own cross-entropy, float64."""

    def nll(hidden_RH: Tensor, weight_VH: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(hidden_RH @ weight_VH[:real].t(), label_R, reduction="none")

    return value_and_gradients(nll, hidden_RH.double(), weight_VH.double(), grad_R)


@pytest.mark.parametrize("chunk", [1, 3, 7, 13, 1000])
@pytest.mark.parametrize("rows", [1, 7, 13])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
def test_values_and_gradients_equal_dense_float64(rows: int, chunk: int, dtype: torch.dtype, tolerance: float):
    hidden_RH, weight_VH, label_R, grad_R = example(rows, dtype=dtype)
    chunked = value_and_gradients(
        lambda h, w: vocab_parallel_nll(h, w, label_R, chunk=chunk), hidden_RH, weight_VH, grad_R
    )
    for mine, theirs in zip(chunked, dense(hidden_RH, weight_VH, label_R, grad_R), strict=True):
        assert mine.dtype == dtype
        torch.testing.assert_close(mine.double(), theirs, rtol=tolerance, atol=10 * tolerance)


def test_finite_differences_agree_with_the_gradient():
    hidden_RH, weight_VH, label_R, _ = example(5, vocabulary=11, hidden=3)
    inputs = hidden_RH.requires_grad_(), weight_VH.requires_grad_()
    assert torch.autograd.gradcheck(lambda h, w: vocab_parallel_nll(h, w, label_R, vocab_size=9 + 2, chunk=2), inputs)


def test_bfloat16_inputs_lose_nothing_in_the_sums():
    hidden_RH, weight_VH, label_R, grad_R = example(40, vocabulary=500, hidden=32, dtype=torch.bfloat16)
    nll_R, grad_hidden_RH, grad_weight_VH = value_and_gradients(
        lambda h, w: vocab_parallel_nll(h, w, label_R, chunk=8), hidden_RH, weight_VH, grad_R
    )
    dense_R, dense_hidden_RH, dense_weight_VH = dense(hidden_RH, weight_VH, label_R, grad_R)
    assert nll_R.dtype == torch.float32
    torch.testing.assert_close(nll_R.double(), dense_R, rtol=1e-5, atol=1e-5)  # as exact as float32 inputs
    for mine, theirs in [(grad_hidden_RH, dense_hidden_RH), (grad_weight_VH, dense_weight_VH)]:
        assert mine.dtype == torch.bfloat16
        torch.testing.assert_close(mine.double(), theirs, rtol=2**-8, atol=1e-6)  # one rounding, at the very end


def test_large_logits_do_not_overflow():
    hidden_RH, weight_VH, label_R, grad_R = example(6, dtype=torch.float32)
    mine = value_and_gradients(lambda h, w: vocab_parallel_nll(h, w, label_R), hidden_RH * 1e3, weight_VH, grad_R)
    for value, theirs in zip(mine, dense(hidden_RH * 1e3, weight_VH, label_R, grad_R), strict=True):
        torch.testing.assert_close(value.double(), theirs, rtol=1e-4, atol=1e-2)


def test_padded_rows_are_never_predicted_and_get_no_gradient():
    hidden_RH, weight_VH, label_R, grad_R = example(9)
    weight_VH[30:] = 100.0  # would win every softmax
    label_R %= 30
    mine = value_and_gradients(
        lambda h, w: vocab_parallel_nll(h, w, label_R, vocab_size=30, chunk=4), hidden_RH, weight_VH, grad_R
    )
    for value, theirs in zip(mine, dense(hidden_RH, weight_VH, label_R, grad_R, real=30), strict=True):
        torch.testing.assert_close(value, theirs)
    assert not mine[2][30:].any()


def test_no_rows_give_no_losses_and_zero_gradients():
    hidden_RH, weight_VH, label_R, grad_R = example(0)
    nll_R, grad_hidden_RH, grad_weight_VH = value_and_gradients(
        lambda h, w: vocab_parallel_nll(h, w, label_R), hidden_RH, weight_VH, grad_R
    )
    assert nll_R.shape == (0,) and grad_hidden_RH.shape == (0, 8)
    assert grad_weight_VH.shape == weight_VH.shape and not grad_weight_VH.any()


@pytest.mark.parametrize("label", [-100, -1, 30, 36, 37])
def test_a_label_outside_the_vocabulary_is_nan_and_leaves_the_others_alone(label: int):
    hidden_RH, weight_VH, label_R, _ = example(4)
    label_R %= 30
    right_R = vocab_parallel_nll(hidden_RH, weight_VH, label_R, vocab_size=30)
    label_R[2] = label
    nll_R = vocab_parallel_nll(hidden_RH, weight_VH, label_R, vocab_size=30)
    assert nll_R.isnan().tolist() == [False, False, True, False]
    assert torch.equal(nll_R[[0, 1, 3]], right_R[[0, 1, 3]])


def test_only_the_gradients_that_are_asked_for_are_computed():
    hidden_RH, weight_VH, label_R, _ = example(4)
    vocab_parallel_nll(hidden_RH.requires_grad_(), weight_VH, label_R).sum().backward()
    assert hidden_RH.grad is not None and weight_VH.grad is None
    with torch.no_grad():
        assert not vocab_parallel_nll(hidden_RH, weight_VH, label_R).requires_grad


def test_a_chunk_below_one_row_is_refused():
    hidden_RH, weight_VH, label_R, _ = example(2)
    with pytest.raises(ValueError, match="chunk is 0"):
        vocab_parallel_nll(hidden_RH, weight_VH, label_R, chunk=0)


class Allocations(TorchDispatchMode):
    """Sizes of the tensors that operations allocate: the largest, and the most alive at once, in bytes."""

    def __init__(self):
        super().__init__()
        self.largest = self.peak = 0
        self._live: dict[StorageWeakRef, int] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = {StorageWeakRef(x.untyped_storage()) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and (storage := StorageWeakRef(tensor.untyped_storage())) not in given:
                self._live[storage] = tensor.untyped_storage().nbytes()
                self.largest = max(self.largest, self._live[storage])
        self._live = {storage: size for storage, size in self._live.items() if not storage.expired()}
        self.peak = max(self.peak, sum(self._live.values()))
        return out


def test_the_allocation_meter_sees_the_dense_logits():
    hidden_RH, weight_VH, label_R, _ = example(64, vocabulary=512, hidden=4, dtype=torch.float32)
    with Allocations() as meter:
        dense_R = torch.nn.functional.cross_entropy(hidden_RH @ weight_VH.t(), label_R, reduction="none")
    assert dense_R.shape == (64,)
    assert meter.largest == 64 * 512 * 4 and meter.peak >= 2 * meter.largest


@pytest.mark.parametrize("rows", [64, 256])
def test_memory_is_one_chunk_of_logits_forward_and_backward(rows: int):
    vocabulary, width, chunk = 512, 4, 8
    hidden_RH, weight_VH, label_R, _ = example(rows, vocabulary, width, torch.float32)
    hidden_RH.requires_grad_(), weight_VH.requires_grad_()
    one_chunk, row_floats = 4 * chunk * vocabulary, 4 * rows
    with Allocations() as forward:
        nll_R = vocab_parallel_nll(hidden_RH, weight_VH, label_R, chunk=chunk)
    assert forward.largest == one_chunk
    assert forward.peak <= 1.1 * one_chunk + 2 * row_floats
    with Allocations() as backward:
        nll_R.backward(torch.ones_like(nll_R))
    gradients = 4 * (weight_VH.numel() + hidden_RH.numel())
    assert backward.largest == one_chunk
    assert backward.peak <= 1.1 * one_chunk + gradients + 2 * row_floats
