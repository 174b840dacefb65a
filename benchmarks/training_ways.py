"""The training steps that benchmarks/training_step.py times, what they need to do, and what the plan says of them.

Shape letters: B batch (1), T time, L label positions, V vocabulary, H hidden.
"""

import gc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks import meter
from benchmarks.models import Size, read
from benchmarks.steps import forward_backward, gradient_difference, packs, weighted_nll, with_main_gradients
from nemo_forking.config.schema import LayoutConfig, LossConfig
from nemo_forking.data.batches import Row
from nemo_forking.losses.cross_entropy import vocab_parallel_nll
from nemo_forking.plan.activations import Sheet, micro_batch_bytes, working_bytes
from nemo_forking.plan.flops import step_flops
from nemo_forking.plan.head import backward_bytes, logit_bytes
from nemo_forking.plan.state import rank_state
from nemo_forking.training.passes import make_pass

if TYPE_CHECKING:
    from benchmarks.training_step import Settings


class Ours:
    """The model as training has it, gradients added up in float32."""

    def __init__(self, model: nn.Module):
        self.model, self.wrapped = model, with_main_gradients(model)

    def step(self, row: Row, recompute: str) -> float:
        """Zero the gradients, lay the row out, forward and backward; the loss."""
        self.wrapped.zero_grad_buffer()
        share = make_pass([row], packs(row.length))
        return float(torch.stack(forward_backward(self.model, share, weighted_nll, recompute)).sum())

    def state_bytes(self) -> int:
        """Of weights and gradients."""
        return sum(p.nbytes + p.main_grad.nbytes for p in self.model.parameters())


class Plain:
    """The model of transformers, whose Trainer would run it so on one device; its attention is torch's (SDPA)."""

    def __init__(self, model: nn.Module, chunk: int):
        self.model, self.chunk = model.train(), chunk
        for param in model.parameters():
            param.grad = torch.zeros_like(param)  # there before a step, and so not above what is there

    def step(self, row: Row, *, keep: bool = False, our_loss: bool = False) -> float:
        """Zero the gradients, forward and backward over the row; the loss, a mean over counted tokens.

        Args:
            row: the sequence.
            keep: activations, rather than checkpoint every layer.
            our_loss: the head in chunks at the counted places, rather than all logits in float32.
        """
        self.model.zero_grad(set_to_none=False)
        if keep:
            self.model.gradient_checkpointing_disable()
        else:
            self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        ids = torch.from_numpy(row.ids).to(self.model.device)
        read_BT, next_L = ids[None, :-1], ids[row.first :]
        if our_loss:
            hidden_LH = read(self.model.model, read_BT).last_hidden_state[0, row.first - 1 :]
            loss = vocab_parallel_nll(hidden_LH, self.model.lm_head.weight, next_L, chunk=self.chunk).mean()
        else:  # as transformers computes it: logits everywhere, a label that is ignored where none counts
            logits_BTV = read(self.model, read_BT).logits.float()
            label_T = F.pad(next_L, (row.first - 1, 0), value=-100)
            loss = F.cross_entropy(logits_BTV[0], label_T)
        loss.backward()
        return float(loss.detach())

    def state_bytes(self) -> int:
        """Of weights and gradients."""
        return sum(p.nbytes + p.grad.nbytes for p in self.model.parameters())


@dataclass(frozen=True)
class Found:
    """What one step, not timed, tells.

    Attributes:
        loss: of the sequence, nats a token.
        peak_bytes: most bytes at once, weights and gradients included.
        planned_bytes: the same by the plan; None for a plain way.
        loss_difference, gradient_difference: from the plain step, relative; None for a plain way, or where none ran.
    """

    loss: float
    peak_bytes: int
    planned_bytes: float | None = None
    loss_difference: float | None = None
    gradient_difference: float | None = None


class Bench:
    """Every way at one shape of the model.

    Args:
        size: that shape.
        settings: the benchmark's.
        ours: our model, compiled or not.
        plain: the one of transformers, with the same weights.
        device: where all of them are.
    """

    def __init__(self, size: Size, settings: "Settings", ours: Mapping[bool, Ours], plain: Plain, device: torch.device):
        self.size, self.settings, self.ours, self.plain, self.device = size, settings, ours, plain, device
        self.model = size.model_config()

    def row(self, tokens: int) -> Row:
        """A sequence of which the model reads so many tokens; the loss is the mean over what follows the prompt."""
        first = self.settings.prompt
        ids = np.random.default_rng(self.settings.seed).integers(0, self.size.vocabulary, tokens + 1)
        return Row(ids, first=first, weight=1 / (len(ids) - first))

    def calls(self, row: Row) -> dict[str, Callable[[], float]]:
        """Every way, the plain ones first."""
        plain = {
            "plain, keeping all": partial(self.plain.step, row, keep=True),
            "plain": partial(self.plain.step, row),
            "plain, our loss": partial(self.plain.step, row, our_loss=True),
        }
        return plain | {
            name: partial(self.ours[compiled].step, row, recompute)
            for name, (compiled, recompute) in self._own_ways().items()
        }

    def _own_ways(self) -> dict[str, tuple[bool, str]]:
        return {
            f"ours, {recompute}{', compiled' if compiled else ''}": (compiled, recompute)
            for compiled in self.ours
            for recompute in self.settings.recompute
        }

    def try_all(self, row: Row) -> dict[str, Found]:
        """A step of every way that the memory suffices for; ours are compared with the first plain one that ran."""
        found: dict[str, Found] = {}
        calls, own = self.calls(row), self._own_ways()
        for name, call in calls.items():
            if name not in own and (tried := self._try(call)):
                found[name] = Found(tried[0], tried[1] + self.plain.state_bytes())
        reference = next(iter(found), None)  # of them the one with least of this project's code
        if reference:  # its gradients, whatever ran after it
            calls[reference]()
        for name, (compiled, recompute) in own.items():
            if not (tried := self._try(calls[name], compiled)):
                continue
            mine, (loss, peak) = self.ours[compiled], tried
            compared = {}
            if reference:
                compared["loss_difference"] = abs(loss / found[reference].loss - 1)
                compared["gradient_difference"] = gradient_difference(mine.model, self.plain.model)
            planned = self.planned_bytes(row, recompute, compiled)
            found[name] = Found(loss, peak + mine.state_bytes(), planned, **compared)
        return found

    def _try(self, call: Callable[[], float], compiled: bool = False) -> tuple[float, int] | None:
        """(Loss, peak above what is there), or None where the memory does not suffice."""
        try:
            if compiled or self.device.type == "cuda":
                call()  # the first call compiles, and makes workspaces
            peak, loss = meter.peak_bytes(call, self.device)
            return loss, peak
        except torch.OutOfMemoryError:
            pass  # outside of this clause nothing of the step is held any longer
        gc.collect()
        torch.cuda.empty_cache()
        return None

    # ------------------------------------------------------------ what there is to do

    def model_flops(self, row: Row) -> float:
        """What the mathematics of the step needs (plan/flops.py)."""
        return step_flops(self.model, [], [row])

    def planned_bytes(self, row: Row, recompute: str, compiled: bool) -> float:
        """Peak of our step by the plan's functions: all of a rank's but the optimizer, which is not here."""
        layout = LayoutConfig(
            accelerator="gpu" if self.device.type == "cuda" else "cpu",
            nodes=1,
            devices=1,
            tensor=1,
            pipeline=1,
            virtual_pipeline=None,
            context=1,
            sequence_parallel=False,
            recompute=recompute,
            distributed_optimizer=False,
            overlap_grad_reduce=False,
            overlap_param_gather=False,
            compile=compiled,
        )
        loss = LossConfig(normalise="token", include_tag=False, chunk=self.settings.chunk)
        on_cpu = layout.accelerator == "cpu"
        sheet = Sheet(row.length, row.counted, padded=row.length if on_cpu else 0)
        state = rank_state(self.model, layout, 0)
        passing = working_bytes(self.model, layout, sheet, backward=True)
        head = logit_bytes(self.model, layout, loss, row.counted) + backward_bytes(self.model, layout, row.counted)
        return state.weights + state.gradients + micro_batch_bytes(self.model, layout, sheet, 0) + passing + head


# ---------------------------------------------------------------- the ceiling


def ceiling(size: Size, tokens: int, repeats: int, device: torch.device) -> dict[str, float]:
    """FLOP a second of matrix products alone, in the model's type: the MLP's two, and a large square one."""
    square, times = (8192, 10) if device.type == "cuda" else (2048, 1)
    rates = {}
    for shape in ((tokens, size.hidden, 2 * size.ffn), (tokens, size.ffn, size.hidden), (square, square, square)):
        rows, inner, columns = shape
        input, weight = (torch.randn(n, inner, dtype=size.dtype, device=device) for n in (rows, columns))

        def call(input=input, weight=weight) -> None:
            for _ in range(times):  # so that a GPU's start-up is little of it
                F.linear(input, weight)

        call()
        medians, _ = meter.in_turn({"": call}, repeats, device)
        rates[" x ".join(map(str, shape))] = times * 2.0 * rows * inner * columns / medians[""]
    return rates
