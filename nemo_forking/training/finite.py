"""A loss or gradient that is not finite is found before the optimizer is touched, and told with questions and ranks."""

from collections.abc import Callable, Iterable

import torch
import torch.distributed as dist
from megatron.core.distributed import DistributedDataParallel
from torch import nn

from nemo_forking.errors import UserError
from nemo_forking.model.qwen2 import RowsSeen

SHOWN = 8  # questions, or parameters, named at most


def check_finite(step: int, chunks: Iterable[nn.Module], seen: RowsSeen, question_of: Callable[[int], str]) -> None:
    """Every rank calls it between backward pass and optimizer step. One all-reduce over the world; a gather if bad.

    Args:
        step: optimizer step, from 1, for the message.
        chunks: this rank's part of the model, as Megatron wraps it.
        seen: this rank's rows with what of their NLL was not finite.
        question_of: a row's name -> its question's id.

    Raises:
        UserError: on every rank alike.
    """
    chunks = [_ddp(chunk) for chunk in chunks]
    fine = [torch.isfinite(buffer.grad_data.sum()) for chunk in chunks for buffer in chunk.buffers]
    fine += [bad_R.sum() == 0 for _, bad_R in seen]
    fine = torch.stack(fine).all().int()
    dist.all_reduce(fine, op=dist.ReduceOp.MIN)
    if fine:
        return
    questions = {
        question_of(name) for names, bad_R in seen for name, bad in zip(names, bad_R.tolist(), strict=True) if bad
    }
    weights = [
        name
        for chunk in chunks
        for name, param in chunk.module.named_parameters()
        if param.requires_grad and not torch.isfinite(param.main_grad.sum())
    ]
    everyone: list = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, (sorted(questions), weights))
    raise UserError(_message(step, everyone))


def _ddp(module: nn.Module) -> DistributedDataParallel:
    while not isinstance(module, DistributedDataParallel):
        module = module.module
    return module


def _message(step: int, everyone: list[tuple[list[str], list[str]]]) -> str:
    questions = sorted({name for names, _ in everyone for name in names})
    lines = [f"step {step} is not finite; the optimizer was not touched, and checkpoints are as they were"]
    if questions:
        ranks = [rank for rank, (names, _) in enumerate(everyone) if names]
        lines.append(f"  loss: of {_some(questions)}, on ranks {ranks}")
    else:
        lines.append("  loss: finite for every question")
    ranks = [rank for rank, (_, weights) in enumerate(everyone) if weights]
    if ranks:
        lines.append(f"  gradient: on ranks {ranks}, there of {_some(everyone[ranks[0]][1])}")
    lines.append(
        "remedy: look at these questions' data; or continue from an earlier checkpoint with a smaller optim.lr"
    )
    return "\n".join(lines)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
