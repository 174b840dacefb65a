"""Negative log-likelihood of label tokens from hidden states, without ever holding all the logits (design 3.3).

Shape letters: R label rows, C rows of one chunk, H hidden, V vocabulary, V' (Vp) its tensor-parallel shard.

A 32k-token trace times Qwen2.5's 152,064 rows is 20 GB of float32 logits. Here the head is applied to label rows only,
`chunk` rows at a time, and each chunk's logits are dropped as soon as its log-likelihoods are known; the backward pass
computes them again. What stays is one float per row.
"""

from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup


def vocab_parallel_nll(
    hidden_RH: Tensor,
    weight_VpH: Tensor,
    label_R: Tensor,
    *,
    vocab_start: int = 0,
    vocab_size: int | None = None,
    group: ProcessGroup | None = None,
    chunk: int = 1024,
) -> Tensor:
    """Negative log-likelihood in nats of each row's label.

    Logits, sums and the result are float32 (float64 for float64 inputs), also where hidden states and weights are
    bfloat16; at most `chunk` x V' logits exist at any time. Differentiable in `hidden_RH` and `weight_VpH`:

    - the gradient of hidden is this rank's part only, from its own V' vocabulary rows; the caller's
      copy-to-region (or sequence-parallel gather) sums the parts over the group, as for any column-parallel layer;
    - the gradient of the weight is complete; it is accumulated over chunks in float32, then cast to the weight's type.

    Collectives, over `group` (none when it is None): per chunk of the forward pass one MAX all-reduce [C] and one SUM
    all-reduce [3, C]; none in the backward pass. So all its ranks must pass the same labels, in the same order.

    Args:
        hidden_RH: hidden states that predict the labels; the same on every rank of the group.
        weight_VpH: this rank's rows of the output matrix.
        label_R: int64 token ids of the whole vocabulary. One outside it gets NaN, rather than a plausible number.
        vocab_start: the token id of this rank's first row.
        vocab_size: rows from this token id on are padding: never predicted, their gradient zero. None: no padding.
        group: tensor-parallel group.
        chunk: rows whose logits are held at a time.

    Returns:
        nll_R, float32 (float64).
    """
    if chunk < 1:
        raise ValueError(f"chunk is {chunk}; it must be at least one row")
    return _VocabParallelNLL.apply(hidden_RH, weight_VpH, label_R, vocab_start, vocab_size, group, chunk)


class _VocabParallelNLL(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden_RH, weight_VpH, label_R, vocab_start, vocab_size, group, chunk):
        dtype = torch.promote_types(hidden_RH.dtype, torch.float32)
        real = _real_rows(len(weight_VpH), vocab_start, vocab_size)
        logsumexp_R = torch.empty(len(label_R), dtype=dtype, device=hidden_RH.device)
        nll_R = torch.empty_like(logsumexp_R)
        for rows in _chunks(len(label_R), chunk):
            logit_CVp = _product(hidden_RH[rows], weight_VpH[:real].t(), dtype)
            column_C, mine_C = _columns(label_R[rows], vocab_start, real)
            # gathered before the logits are overwritten; a shard of padding only has no columns at all
            target_C = logit_CVp.gather(1, column_C[:, None])[:, 0] if real else torch.zeros_like(nll_R[rows])
            max_C = logit_CVp.amax(dim=1) if real else torch.full_like(nll_R[rows], -torch.inf)
            if group is not None:
                dist.all_reduce(max_C, dist.ReduceOp.MAX, group=group)
            sumexp_C = logit_CVp.sub_(max_C[:, None]).exp_().sum(dim=1)
            del logit_CVp  # before the next chunk's are made
            packed_3C = torch.stack([sumexp_C, target_C.masked_fill(~mine_C, 0.0), mine_C.to(dtype)])
            if group is not None:
                dist.all_reduce(packed_3C, dist.ReduceOp.SUM, group=group)
            sumexp_C, target_C, owners_C = packed_3C
            logsumexp_R[rows] = max_C + sumexp_C.log()
            nll_R[rows] = (logsumexp_R[rows] - target_C).masked_fill(owners_C == 0, torch.nan)
        ctx.save_for_backward(hidden_RH, weight_VpH, label_R, logsumexp_R)
        ctx.real, ctx.vocab_start, ctx.chunk = real, vocab_start, chunk
        return nll_R

    @staticmethod
    def backward(ctx, grad_R):
        hidden_RH, weight_VpH, label_R, logsumexp_R = ctx.saved_tensors
        want_hidden, want_weight = ctx.needs_input_grad[:2]
        dtype, real_VpH = logsumexp_R.dtype, weight_VpH[: ctx.real]
        grad_hidden_RH = torch.zeros_like(hidden_RH) if want_hidden else None
        grad_weight_VpH = torch.zeros_like(weight_VpH, dtype=dtype) if want_weight else None
        for rows in _chunks(len(label_R), ctx.chunk) if ctx.real else ():
            # d nll / d logit = softmax - one-hot(label), built in place where the logits were
            grad_CVp = _product(hidden_RH[rows], real_VpH.t(), dtype)
            grad_CVp.sub_(logsumexp_R[rows, None]).exp_()
            column_C, mine_C = _columns(label_R[rows], ctx.vocab_start, ctx.real)
            at_label_C1 = grad_CVp.gather(1, column_C[:, None]) - mine_C[:, None].to(dtype)
            grad_CVp.scatter_(1, column_C[:, None], at_label_C1).mul_(grad_R[rows, None])
            if want_hidden:
                grad_hidden_RH[rows] = _product(grad_CVp, real_VpH, dtype).to(hidden_RH.dtype)
            if want_weight:
                _add_product(grad_weight_VpH[: ctx.real], grad_CVp.t(), hidden_RH[rows])
            del grad_CVp  # before the next chunk's is made
        if want_weight:
            grad_weight_VpH = grad_weight_VpH.to(weight_VpH.dtype)
        return grad_hidden_RH, grad_weight_VpH, None, None, None, None, None


def _chunks(rows: int, chunk: int) -> Iterator[slice]:
    return (slice(start, min(start + chunk, rows)) for start in range(0, rows, chunk))


def _real_rows(rows: int, vocab_start: int, vocab_size: int | None) -> int:
    """How many of a shard's rows are tokens, the rest being padding at the end of the vocabulary."""
    return rows if vocab_size is None else min(max(vocab_size - vocab_start, 0), rows)


def _columns(label_C: Tensor, vocab_start: int, real: int) -> tuple[Tensor, Tensor]:
    """Each label's column in this shard (0 where it lies elsewhere) and whether it lies here."""
    column_C = label_C - vocab_start
    mine_C = (column_C >= 0) & (column_C < real)
    return column_C.masked_fill(~mine_C, 0), mine_C


def _product(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """The matrix product a @ b accumulated and returned in `dtype`, where a or b may be of a lower precision."""
    low = next((x.dtype for x in (a, b) if x.dtype != dtype), None)
    if low is None:
        return a @ b
    if a.is_cuda:  # tensor cores multiply bfloat16 into float32; no float32 copy of the weight is made
        return torch.mm(a.to(low), b.to(low), out_dtype=dtype)
    return a.to(dtype) @ b.to(dtype)


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """Add a @ b to `total` in place, in its precision."""
    if total.is_cuda and b.dtype != total.dtype:
        total.add_(_product(a, b, total.dtype))
    else:
        total.addmm_(a.to(total.dtype), b.to(total.dtype))
