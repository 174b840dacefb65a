"""A training step on Megatron's schedule: forward and backward of packed rows, gradients as training keeps them.

Shape letters: L label positions of a micro-batch.
"""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
from megatron.core.pipeline_parallel import get_forward_backward_func
from torch import Tensor, nn

from nemo_forking.data.batches import Layout, MicroBatch
from nemo_forking.model.weights import stage_tensors
from nemo_forking.tags import Tags
from nemo_forking.training.passes import Pass

Objective = Callable[[MicroBatch, Tensor], Tensor]  # a micro-batch and its NLL at the labels -> its part of the loss


def last_tags(vocabulary: int, count: int) -> Tags:
    """Tags of one id each, the last of the vocabulary."""
    return Tags("special", tuple((vocabulary - count + n,) for n in range(count)), 0, ((),) * count)


def packs(tokens: int) -> Layout:
    """Packed micro-batches of one process."""
    return Layout(packing=True, tokens=tokens, micro_batch_size=1)


def forward_backward(model: nn.Module, share: Pass, objective: Objective, recompute: str = "none") -> list[Tensor]:
    """One pass of Megatron's schedule with a gradient, added to what is there; the loss's part of each micro-batch.

    Args:
        model: the Megatron model.
        share: its micro-batches.
        objective: their part of the loss, which holds its own denominator.
        recompute: what is computed again in the backward pass, as layout.recompute has it.
    """
    set_recompute(model, recompute)
    reports = get_forward_backward_func()(
        forward_step_func=partial(_step, objective),
        data_iterator=iter(share.micro_batches),
        model=model.train(),
        num_microbatches=len(share.micro_batches),
        seq_length=share.time,
        micro_batch_size=share.batch,
    )
    return [report["loss"] for report in reports]


def _step(objective: Objective, batches: Iterator[MicroBatch], model: nn.Module):
    batch = model.data_step(batches)

    def loss(nll_L: Tensor):
        """As Megatron wants it; the count is unused, since the loss holds the one denominator."""
        part = objective(batch, nll_L)
        return part, torch.ones((), dtype=torch.int, device=nll_L.device), {"loss": part.detach()}

    return model.forward_step(batch), loss


def weighted_nll(batch: MicroBatch, nll_L: Tensor) -> Tensor:
    """The loss of supervised training: rows carry the weight of each of their tokens."""
    return (nll_L * batch.weights).sum()


def set_recompute(model: nn.Module, recompute: str) -> None:
    """Change layout.recompute of a model that is built already."""
    full = recompute == "full"
    model.config.recompute_granularity = "full" if full else None
    model.config.recompute_method, model.config.recompute_num_layers = ("uniform", 1) if full else (None, None)
    for layer in model.decoder.layers:
        layer.self_attention.checkpoint_core_attention = recompute == "selective"


# ---------------------------------------------------------------- gradients


def with_main_gradients(model: nn.Module) -> DistributedDataParallel:
    """Megatron's wrapper as training sets it up: gradients of all micro-batches are added up in float32 buffers."""
    return DistributedDataParallel(model.config, DistributedDataParallelConfig(grad_reduce_in_fp32=True), model)


def gradient_difference(ours: nn.Module, plain: nn.Module) -> float:
    """Largest |ours - plain| / |plain| of any tensor's gradient; not finite where the plain gradient is zero."""
    mine = _gradients(ours)
    relative = [(mine[name] - param.grad).norm() / param.grad.norm() for name, param in plain.named_parameters()]
    return float(torch.stack(relative).max())  # NaN where one is


def _gradients(model: nn.Module) -> dict[str, Tensor]:
    """A Megatron model's gradients by their Hugging Face names: they are laid out, and so exported, as the weights."""
    weights = {param: param.data for param in model.parameters()}
    try:
        for param in weights:
            gradient = param.main_grad if param.grad is None else param.grad
            param.data = gradient.to(param.dtype)  # data of another type would cost the parameter Megatron's hook
        return dict(stage_tensors(model))
    finally:
        for param, data in weights.items():
            param.data = data
