"""Passes of rows through the model: how they are laid out, and those without a gradient.

Shape letters: R rows, L label positions of a micro-batch.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from megatron.core import parallel_state
from megatron.core.pipeline_parallel import get_forward_backward_func
from torch import Tensor, nn

from nemo_forking import pulse
from nemo_forking.config import Config
from nemo_forking.data import packing
from nemo_forking.data.batches import Layout, MicroBatch, Row, build
from nemo_forking.data.sharing import deal_rows
from nemo_forking.plan.flops import crossover
from nemo_forking.training.pace import pace


@dataclass
class Pass:
    """This rank's micro-batches of a pass, and the shape the pipeline schedule needs."""

    micro_batches: list[MicroBatch]
    batch: int
    time: int  # of every micro-batch under pipeline parallelism, else the greatest
    rows_max: int  # most rows any data-parallel rank holds
    imbalance: float  # the dearest data-parallel rank's cost over the mean, less 1 (Deal.imbalance)
    spared: list[int]  # lengths of shared prompts that rows did not read again, on all ranks (Deal.spared)


def make_pass(rows: Sequence[Row], layout: Layout) -> Pass:
    """Deal the rows and build this rank's share."""
    plan = deal_rows(rows, layout)
    time = max(plan.times[layout.data_rank])
    return Pass(list(build(rows, plan, layout)), plan.batch, time, plan.rows_max, plan.imbalance, plan.spared)


def pass_layout(config: Config, *, without_gradient: bool = False) -> Layout:
    """This rank's layout of a pass (data.packing.pass_layout)."""
    return packing.pass_layout(
        config.batch,
        config.layout,
        crossover(config.model),
        without_gradient=without_gradient,
        data_rank=parallel_state.get_data_parallel_rank(),
        context_rank=parallel_state.get_context_parallel_rank(),
    )


# ---------------------------------------------------------------- without a gradient


class RowLosses(NamedTuple):
    """What this rank scored, as matching.exchange.match takes it."""

    row_R: Tensor  # int64
    sum_R: Tensor  # float64, nats
    count_R: Tensor  # float64
    rows_max: int
    imbalance: float  # of the pass, as in Pass
    spared: list[int]


def score(chunks: list[nn.Module], rows: list[Row], layout: Layout) -> RowLosses:
    """Sum of NLL and count of every row this rank holds.

    Megatron's forward-only schedule over all micro-batches in one pipeline fill; no activations are kept, dropout is
    off. Empty but on the last pipeline stage at tensor rank 0; a context rank holds its part of each row.
    """
    share = make_pass(rows, layout)
    reports = forward_only(chunks, share, _sums)
    device = torch.cuda.current_device()
    if reports and parallel_state.get_tensor_model_parallel_rank() == 0:
        row = torch.tensor([r for batch in share.micro_batches for r in batch.rows], dtype=torch.int64, device=device)
        total, count = torch.cat(reports, dim=1)
    else:
        row = torch.empty(0, dtype=torch.int64, device=device)
        total = count = torch.empty(0, dtype=torch.float64, device=device)
    rows_max = share.rows_max * max(len(r.names) for r in rows)
    return RowLosses(row, total, count, rows_max, share.imbalance, share.spared)


def label_logprobs(chunks: list[nn.Module], share: Pass) -> dict[tuple[int, ...], Tensor]:
    """Log-probability (nats) of every label of this rank's micro-batches, by the names of their rows.

    Empty but on the last pipeline stage; every tensor rank there holds the same. Collectives: Megatron's forward-only
    schedule.
    """
    reports = forward_only(chunks, share, lambda batch, nll_L: -nll_L)
    return {batch.rows: logprob_L for batch, logprob_L in zip(share.micro_batches, reports, strict=bool(reports))}


@torch.no_grad()
def forward_only(chunks: list[nn.Module], share: Pass, report: Callable[[MicroBatch, Tensor], Tensor]) -> list[Tensor]:
    """`report` of every micro-batch and its NLL at the labels; an empty list but on the last pipeline stage."""
    was_training = chunks[0].training
    for chunk in chunks:
        chunk.eval()

    def step(batches: Iterator[MicroBatch], model: nn.Module):
        batch = model.data_step(batches)
        return model.forward_step(batch), lambda nll_L, non_loss_data=True: report(batch, nll_L)

    batches = share.micro_batches
    with pace.of(pulse.now.phase):
        reports = get_forward_backward_func()(
            forward_step_func=step,
            data_iterator=[pulse.each(batches) for _ in chunks] if len(chunks) > 1 else pulse.each(batches),
            model=chunks if len(chunks) > 1 else chunks[0],
            num_microbatches=len(batches),
            seq_length=share.time,
            micro_batch_size=share.batch,
            forward_only=True,
            collect_non_loss_data=True,
        )
    for chunk in chunks:
        chunk.train(was_training)
    return reports or []


def _sums(batch: MicroBatch, nll_L: Tensor) -> Tensor:
    """[2, rows of the micro-batch]: NLL summed in float64, tokens counted."""
    out = torch.zeros(2, len(batch.rows), dtype=torch.float64, device=nll_L.device)
    out[0].index_add_(0, batch.row, nll_L.double())
    out[1].index_add_(0, batch.row, torch.ones_like(nll_L, dtype=torch.float64))
    return out
