"""The torch attention against dense float64: packed documents, context parallelism, values and gradients.

Shape letters: T tokens, B batch, H query heads, G key heads, D head size.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_forking.model import cpu
from nemo_forking.model.layers import TorchAttention, describe_documents, zigzag_order
from tests.distributed.ranks import run

HEADS, KEY_HEADS, SIZE = 4, 2, 6
SCALE = 0.7

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU the layers use Transformer Engine")


def attention(group) -> TorchAttention:
    return TorchAttention(None, 1, None, None, softmax_scale=SCALE, pg_collection=SimpleNamespace(cp=group))


def one_rank_group() -> SimpleNamespace:
    return SimpleNamespace(size=lambda: 1, rank=lambda: 0)


def inputs(tokens: int, batch: int) -> tuple[torch.Tensor, ...]:
    """q, k, v and the gradient of the output, [T, B, heads, D]; the same on every rank."""
    generator = torch.Generator().manual_seed(tokens)
    heads = (HEADS, KEY_HEADS, KEY_HEADS, HEADS)
    return tuple(torch.randn(tokens, batch, h, SIZE, generator=generator, dtype=torch.float64) for h in heads)


def dense(lengths: tuple[int, ...], batch: int) -> tuple[torch.Tensor, ...]:
    """Softmax attention with the whole [T, T] mask; (output, gradients of q, k, v)."""
    tokens = sum(lengths)
    q, k, v, grad = inputs(tokens, batch)
    leaves = [t.requires_grad_() for t in (q, k, v)]
    document = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    seen = (document[:, None] == document) & torch.ones(tokens, tokens, dtype=torch.bool).tril()
    repeat = HEADS // KEY_HEADS
    k_TBHD, v_TBHD = (t.repeat_interleave(repeat, dim=2) for t in (k, v))
    scores = torch.einsum("sbhd,tbhd->bhst", q, k_TBHD) * SCALE
    out = torch.einsum("bhst,tbhd->sbhd", scores.masked_fill(~seen, -torch.inf).softmax(-1), v_TBHD)
    out.backward(grad)
    return out.detach(), *(t.grad for t in leaves)


def assert_dense(got: tuple[torch.Tensor, ...], lengths: tuple[int, ...], batch: int) -> None:
    for name, mine, wanted in zip(("output", "dq", "dk", "dv"), got, dense(lengths, batch), strict=True):
        np.testing.assert_allclose(mine.reshape(wanted.shape), wanted, rtol=1e-9, atol=1e-12, err_msg=name)


@settings(max_examples=40)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=8).map(tuple))
def test_packed_documents_do_not_see_each_other(lengths):
    q, k, v, grad = (t[:, 0] for t in inputs(sum(lengths), 1))
    leaves = [t.clone().requires_grad_() for t in (q, k, v)]
    positions = torch.cat([torch.arange(length) for length in lengths])
    out = attention(one_rank_group())(*leaves, packed_seq_params=describe_documents(lengths, positions))
    assert out.shape == (sum(lengths), 1, HEADS * SIZE)
    out.backward(grad.reshape(out.shape))
    assert_dense((out.detach(), *(t.grad for t in leaves)), lengths, 1)


def test_a_padded_batch_is_causal_attention():
    q, k, v, grad = inputs(9, 3)
    leaves = [t.clone().requires_grad_() for t in (q, k, v)]
    out = attention(one_rank_group())(*leaves)
    assert out.shape == (9, 3, HEADS * SIZE)
    out.backward(grad.reshape(out.shape))
    assert_dense((out.detach(), *(t.grad for t in leaves)), (9,), 3)


@pytest.mark.parametrize(
    ("ranks", "lengths", "batch"),
    [(2, (8,), 1), (2, (12,), 3), (2, (4, 16, 8, 4), 1), (3, (6, 18, 12), 1)],
    ids=["one document", "padded batch", "packed", "three ranks, packed"],
)
def test_context_parallel_ranks_give_their_part_of_the_dense_result(ranks, lengths, batch):
    parts = run(context_rank, ranks, lengths, batch, batch > 1)
    whole = []
    for number in range(4):  # output, dq, dk, dv: every rank's part back to its places
        joined = torch.full_like(inputs(sum(lengths), batch)[(3, 0, 1, 2)[number]], torch.nan)
        for places, *tensors in parts:
            joined[places] = tensors[number].reshape(-1, *joined.shape[1:])
        whole.append(joined)
    assert_dense(tuple(whole), lengths, batch)


def context_rank(rank: int, lengths: tuple[int, ...], batch: int, padded: bool) -> tuple[torch.Tensor, ...]:
    cpu.install()
    ranks = dist.get_world_size()
    places, starts = [], np.cumsum([0, *lengths])
    for start, length in zip(starts, lengths, strict=False):
        chunk = length // (2 * ranks)
        for index in (rank, 2 * ranks - 1 - rank):
            places += range(start + index * chunk, start + (index + 1) * chunk)
    places = torch.tensor(places)
    *leaves, grad = (t[places] if padded else t[places, 0] for t in inputs(sum(lengths), batch))
    leaves = [t.clone().requires_grad_() for t in leaves]
    positions = torch.cat([torch.arange(length) for length in lengths])[places]
    packed = None if padded else describe_documents(lengths, positions)
    out = attention(dist.group.WORLD)(*leaves, packed_seq_params=packed)
    out.backward(grad.reshape(out.shape))
    return places, out.detach(), *(t.grad for t in leaves)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=5), st.integers(1, 4))
def test_the_zigzag_order_finds_every_token_in_the_ranks_slices(chunks, ranks):
    lengths = tuple(2 * ranks * chunk for chunk in chunks)
    slices = []
    for rank in range(ranks):
        start = 0
        for length, chunk in zip(lengths, chunks, strict=True):
            for index in (rank, 2 * ranks - 1 - rank):
                slices += range(start + index * chunk, start + (index + 1) * chunk)
            start += length
    assert torch.tensor(slices)[zigzag_order(lengths, ranks)].tolist() == list(range(sum(lengths)))
