"""The torch attention against dense float64: packs with and without branches, context parallelism, gradients.

Shape letters: T tokens, B batch, H query heads, G key heads, D head size.
"""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_forking.data.packing import Document
from nemo_forking.model import cpu, kernels
from nemo_forking.model.attention import SegmentAttention, branching, describe_documents
from nemo_forking.model.segments import cut, gathered_order
from tests.distributed.ranks import run

HEADS, KEY_HEADS, SIZE = 4, 2, 6
SCALE = 0.7
ONE_RANK = SimpleNamespace(size=lambda: 1, rank=lambda: 0)
BRANCHES = Document(8, (4, 12, 4))


def attention(group) -> SegmentAttention:
    return SegmentAttention(None, 1, None, None, softmax_scale=SCALE, pg_collection=SimpleNamespace(cp=group))


def plain(*lengths: int) -> tuple[Document, ...]:
    return tuple(map(Document, lengths))


def inputs(tokens: int, batch: int) -> tuple[torch.Tensor, ...]:
    """q, k, v and the gradient of the output, [T, B, heads, D]; the same on every rank."""
    generator = torch.Generator().manual_seed(tokens)
    heads = (HEADS, KEY_HEADS, KEY_HEADS, HEADS)
    return tuple(torch.randn(tokens, batch, h, SIZE, generator=generator, dtype=torch.float64) for h in heads)


def names(documents) -> list[tuple[int, int, int]]:
    """Every token's document, branch (-1 for the trunk) and place in it, in the order of the pack."""
    return [
        (number, branch, place)
        for number, document in enumerate(documents)
        for branch, length in enumerate((document.trunk, *document.branches), start=-1)
        for place in range(length)
    ]


def reads(query: tuple[int, int, int], key: tuple[int, int, int]) -> bool:
    """Whether one token may attend to another."""
    if query[0] != key[0]:
        return False
    return query[2] >= key[2] if query[1] == key[1] else key[1] == -1


def positions(documents) -> torch.Tensor:
    return torch.tensor([place + (documents[d].trunk if b >= 0 else 0) for d, b, place in names(documents)])


def own_places(documents, ranks: int, rank: int) -> torch.Tensor:
    """The places in the pack of a context rank's tokens, in its order."""
    places, start = [], 0
    for length in itertools.chain.from_iterable((d.trunk, *d.branches) for d in documents):
        chunk = length // (2 * ranks)
        for index in (rank, 2 * ranks - 1 - rank) if ranks > 1 else (0, 1):
            places += range(start + index * chunk, start + (index + 1) * chunk)
        if ranks == 1 and length % 2:
            places.append(start + length - 1)
        start += length
    return torch.tensor(places)


def dense(documents, batch: int) -> tuple[torch.Tensor, ...]:
    """Softmax attention with the whole [T, T] mask; (output, gradients of q, k, v)."""
    tokens = names(documents)
    q, k, v, grad = inputs(len(tokens), batch)
    leaves = [t.requires_grad_() for t in (q, k, v)]
    seen = torch.tensor([[reads(query, key) for key in tokens] for query in tokens])
    repeat = HEADS // KEY_HEADS
    k_TBHD, v_TBHD = (t.repeat_interleave(repeat, dim=2) for t in (k, v))
    scores = torch.einsum("sbhd,tbhd->bhst", q, k_TBHD) * SCALE
    out = torch.einsum("bhst,tbhd->sbhd", scores.masked_fill(~seen, -torch.inf).softmax(-1), v_TBHD)
    out.backward(grad)
    return out.detach(), *(t.grad for t in leaves)


def assert_dense(got: tuple[torch.Tensor, ...], documents, batch: int = 1) -> None:
    for name, mine, wanted in zip(("output", "dq", "dk", "dv"), got, dense(documents, batch), strict=True):
        np.testing.assert_allclose(mine.reshape(wanted.shape), wanted, rtol=1e-9, atol=1e-12, err_msg=name)


def packs(multiple: int):
    """Random packs, some documents with branches, their lengths multiples of `multiple`."""
    lengths = st.integers(1, 12).map(lambda n: n * multiple)
    branches = st.lists(lengths, max_size=4).map(tuple)
    trunks = st.one_of(st.just(0), lengths)
    documents = st.builds(Document, trunks, branches).filter(lambda d: d.length > 0)
    return st.lists(documents, min_size=1, max_size=5).map(tuple)


@settings(max_examples=60)
@given(packs(1))
def test_tokens_read_their_branch_and_its_trunk_and_nothing_else(documents):
    q, k, v, grad = (t[:, 0] for t in inputs(sum(d.length for d in documents), 1))
    leaves = [t.clone().requires_grad_() for t in (q, k, v)]
    packed = describe_documents(documents, positions(documents), ONE_RANK)
    out = attention(ONE_RANK)(*leaves, packed_seq_params=packed)
    assert out.shape == (len(q), 1, HEADS * SIZE)
    out.backward(grad.reshape(out.shape))
    assert_dense((out.detach(), *(t.grad for t in leaves)), documents)


def test_a_padded_batch_is_causal_attention():
    q, k, v, grad = inputs(9, 3)
    leaves = [t.clone().requires_grad_() for t in (q, k, v)]
    out = attention(ONE_RANK)(*leaves)
    assert out.shape == (9, 3, HEADS * SIZE)
    out.backward(grad.reshape(out.shape))
    assert_dense((out.detach(), *(t.grad for t in leaves)), plain(9), 3)


def one_segment_after_the_other(q, k, v, ends, longest, scale):
    """What flash attention of variable lengths promises, from its definition."""
    assert ends[0].dtype == ends[1].dtype == torch.int32
    bounds = [list(itertools.pairwise(e.tolist())) for e in ends]
    assert longest == tuple(max(end - begin for begin, end in b) for b in bounds)
    outs = []
    for (q0, q1), (k0, k1) in zip(*bounds, strict=True):
        scores = torch.einsum("qgrd,kgd->grqk", q[q0:q1].unflatten(1, (k.size(1), -1)), k[k0:k1]) * scale
        hidden = torch.ones(q1 - q0, k1 - k0, dtype=torch.bool).triu(k1 - k0 - (q1 - q0) + 1)
        scores = scores.masked_fill(hidden, -torch.inf).softmax(-1)
        outs.append(torch.einsum("grqk,kgd->qgrd", scores, v[k0:k1]).flatten(1, 2))
    return torch.cat(outs)


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize(("prepare", "call"), [(kernels.Varlen, 0), (kernels.Padded, 2**16), (kernels.Padded, 8)])
@settings(max_examples=15)
@given(data=st.data())
def test_every_kernel_gives_each_context_rank_its_part(ranks, prepare, call, data):
    documents = data.draw(packs(1 if ranks == 1 else 2 * ranks))
    tokens = sum(d.length for d in documents)
    order = gathered_order(documents, ranks) if ranks > 1 else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "CALL", call)  # how soon a segment is attended by itself
        patch.setattr(kernels, "BLOCK", 3)
        patch.setattr(kernels, "varlen_causal", one_segment_after_the_other)
        q, k, v, grad = (t[:, 0] for t in inputs(tokens, 1))
        leaves = [t.clone().requires_grad_() for t in (q, k, v)]
        gathered = [torch.cat([t[own_places(documents, ranks, r)] for r in range(ranks)]) for t in leaves[1:]]
        whole = torch.full_like(q, torch.nan)
        for rank in range(ranks):
            places = own_places(documents, ranks, rank)
            kernel = prepare(cut(documents, ranks, rank), order, q)
            out = kernel(leaves[0][places], *gathered, SCALE)
            out.backward(grad[places], retain_graph=True)
            whole[places] = out.detach()
    assert_dense((whole, *(t.grad for t in leaves)), documents)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch's flash attention of variable lengths needs a GPU")
def test_flash_attention_of_variable_lengths_keeps_its_promise(monkeypatch):
    documents = (Document(40, (24, 100, 7)), Document(300), Document(0, (5, 130)))
    q, k, v = (torch.randn(sum(d.length for d in documents), h, 64, device="cuda") for h in (8, 2, 2))
    leaves = [[t.to(torch.bfloat16).requires_grad_() for t in (q, k, v)] for _ in range(2)]
    kernel = kernels.prepare(cut(documents), None, leaves[0][0])
    assert isinstance(kernel, kernels.Varlen)
    out = kernel(*leaves[0], SCALE)
    monkeypatch.setattr(kernels, "varlen_causal", one_segment_after_the_other)
    wanted = kernel(*leaves[1], SCALE)
    torch.testing.assert_close(out, wanted, rtol=2e-2, atol=2e-2)
    grad = torch.randn_like(out)
    out.backward(grad)
    wanted.backward(grad)
    for mine, other in zip(*leaves, strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=5e-2, atol=5e-2)


@pytest.mark.skipif(torch.cuda.is_available(), reason="gloo ranks on the CPU")
@pytest.mark.parametrize(
    ("ranks", "documents", "batch"),
    [
        (2, plain(8), 1),
        (2, plain(12), 3),
        (2, (Document(4), BRANCHES, Document(16), Document(0, (8, 4))), 1),
        (3, plain(6, 18, 12), 1),
    ],
    ids=["one document", "padded batch", "packed, with branches", "three ranks, packed"],
)
def test_context_parallel_ranks_give_their_part_of_the_dense_result(ranks, documents, batch):
    parts = run(context_rank, ranks, documents, batch, batch > 1)
    whole = []
    for number in range(4):  # output, dq, dk, dv: every rank's part back to its places
        joined = torch.full_like(inputs(len(names(documents)), batch)[(3, 0, 1, 2)[number]], torch.nan)
        for places, *tensors in parts:
            joined[places] = tensors[number].reshape(-1, *joined.shape[1:])
        whole.append(joined)
    assert_dense(tuple(whole), documents, batch)


def context_rank(rank: int, documents, batch: int, padded: bool) -> tuple[torch.Tensor, ...]:
    cpu.install()
    places = own_places(documents, dist.get_world_size(), rank)
    *leaves, grad = (t[places] if padded else t[places, 0] for t in inputs(len(names(documents)), batch))
    leaves = [t.clone().requires_grad_() for t in leaves]
    group = dist.group.WORLD
    packed = None if padded else describe_documents(documents, positions(documents)[places], group)
    out = attention(group)(*leaves, packed_seq_params=packed)
    out.backward(grad.reshape(out.shape))
    return places, out.detach(), *(t.grad for t in leaves)


@given(st.integers(1, 4).flatmap(lambda ranks: st.tuples(packs(2 * ranks), st.just(ranks))))
def test_the_gathered_order_finds_every_token_in_the_ranks_slices(drawn):
    documents, ranks = drawn
    slices = torch.cat([own_places(documents, ranks, rank) for rank in range(ranks)])
    assert slices[gathered_order(documents, ranks)].tolist() == list(range(sum(d.length for d in documents)))


def test_transformer_engine_keeps_documents_without_branches():
    class Other(torch.nn.Module):  # in the place of Transformer Engine's
        def __init__(self, *args, **kwargs):
            super().__init__()

        def forward(self, *args, packed_seq_params=None):
            return packed_seq_params

    core = branching(Other)(None, 1, None, None, softmax_scale=SCALE, pg_collection=SimpleNamespace(cp=ONE_RANK))
    q, k, v, _ = (t[:, 0] for t in inputs(BRANCHES.length, 1))
    whole = describe_documents(plain(8, 20), positions(plain(8, 20)), ONE_RANK, transformer_engine=True)
    assert core(q, k, v, packed_seq_params=whole) is whole and whole.cu_seqlens_q.tolist() == [0, 8, 28]
    shared = describe_documents((BRANCHES,), positions((BRANCHES,)), ONE_RANK, transformer_engine=True)
    assert shared.cu_seqlens_q is None  # Megatron then rotates token by token, at their positions
    wanted = dense((BRANCHES,), 1)[0].detach()
    np.testing.assert_allclose(core(q, k, v, packed_seq_params=shared), wanted.reshape(28, 1, -1), rtol=1e-9)
