"""The NeMo model: Qwen2 whose loss is computed at label positions only, from batches the set step builds.

Shape letters: B batch, T tokens of this context-parallel rank, L label positions, H hidden.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.distributed import finalize_model_grads
from megatron.core.models.gpt import GPTModel
from megatron.core.tensor_parallel.mappings import (
    copy_to_tensor_model_parallel_region,
    gather_from_sequence_parallel_region,
)
from nemo.collections.llm.gpt.model.qwen2 import Qwen2Config, Qwen2Model
from nemo.lightning.megatron_parallel import MegatronLossReduction
from nemo.lightning.pytorch.optim import MegatronOptimizerModule
from torch import Tensor

from nemo_forking.data.batches import MicroBatch
from nemo_forking.losses.cross_entropy import vocab_parallel_nll
from nemo_forking.model.layers import describe_documents, layer_spec
from nemo_forking.model.weights import Source, load


class Labels(NamedTuple):
    """Where the head is applied, and what is predicted there."""

    places_L: Tensor  # flat positions t * B + b in the hidden states [T, B, H]
    tokens_L: Tensor


@dataclass
class ForkingQwen2Config(Qwen2Config):
    """NeMo's Qwen2 configuration, building the model below; `loss_chunk` bounds the head's logits in memory."""

    transformer_layer_spec: object = layer_spec
    calculate_per_token_loss: bool = True  # gradients are summed over data parallel, never averaged
    loss_chunk: int = 1024

    def configure_model(self, tokenizer=None, pre_process=None, post_process=None, vp_stage=None) -> "LabelRowsGPT":
        """Build this rank's part of the model."""
        model = super().configure_model(tokenizer, pre_process, post_process, vp_stage)
        model.__class__ = LabelRowsGPT  # NeMo names Megatron's class in its builder; ours differs in two methods only
        return model


class LabelRowsGPT(GPTModel):
    """Megatron's GPT with the head at label positions only, and rotary positions that restart at every document."""

    def _preprocess(self, *args, packed_seq_params=None, **kwargs):
        out = super()._preprocess(*args, packed_seq_params=packed_seq_params, **kwargs)
        positions_T = getattr(packed_seq_params, "positions", None)
        if positions_T is None:
            return out
        hidden, rotary, *rest = out
        return hidden, rotary[positions_T, 0], *rest

    def _postprocess(self, hidden_states, input_ids=None, position_ids=None, labels: Labels | None = None, **kwargs):
        if not self.post_process or labels is None:
            return super()._postprocess(hidden_states, input_ids, position_ids, labels, **kwargs)
        if self.config.sequence_parallel:  # its backward reduce-scatters the ranks' partial gradients
            hidden_LH = gather_from_sequence_parallel_region(hidden_states).flatten(0, 1)[labels.places_L]
        else:  # its backward all-reduces them, of the label rows only
            hidden_LH = copy_to_tensor_model_parallel_region(hidden_states.flatten(0, 1)[labels.places_L])
        tied = self.share_embeddings_and_output_weights
        weight = self.shared_embedding_or_output_weight() if tied else self.output_layer.weight
        return vocab_parallel_nll(
            hidden_LH,
            weight,
            labels.tokens_L,
            vocab_start=parallel_state.get_tensor_model_parallel_rank() * weight.size(0),
            vocab_size=None,
            group=parallel_state.get_tensor_model_parallel_group(),
            chunk=self.config.loss_chunk,
        )


class WeightedLoss(MegatronLossReduction):
    """Sum of weight x NLL; the weights already hold the one global denominator (losses/normalise.py)."""

    def forward(self, batch: MicroBatch, nll_L: Tensor):
        """(loss, token count, report) as Megatron's schedules want it; the count is unused, see WeightedOptimizer."""
        loss = (nll_L * batch.weights).sum()
        return loss, torch.ones((), dtype=torch.int, device=loss.device), {"loss": loss.detach()}

    def reduce(self, reports: list[dict]) -> Tensor:
        """The step's loss: summed over micro-batches, then over the data x context-parallel group (one all-reduce)."""
        loss = torch.stack([report["loss"] for report in reports]).sum()
        dist.all_reduce(loss, group=parallel_state.get_data_parallel_group(with_context_parallel=True))
        return loss


class WeightedOptimizer(MegatronOptimizerModule):
    """NeMo's Megatron optimizer, told not to divide the gradients: the loss already is."""

    def finalize_model_grads(self, model, num_tokens=None, **kwargs):
        """Megatron's reductions over data, sequence and pipeline parallel groups, without its own denominator."""
        return finalize_model_grads(model, None, **kwargs)


class ForkingQwen2Model(Qwen2Model):
    """NeMo's Qwen2 on micro-batches of the set step, started from `weights` (none when a checkpoint will be loaded)."""

    def __init__(self, config: ForkingQwen2Config, optim: WeightedOptimizer, weights: Source | None = None):
        super().__init__(config, optim=optim)
        self.weights = weights

    def configure_model(self, vp_stage: int | None = None) -> None:
        """Build this rank's part and copy its weights in, before DDP and the optimizer take hold of them."""
        built = hasattr(self, "module")
        super().configure_model(vp_stage=vp_stage)
        if not built and self.weights:
            load(self.module, self.weights)

    def data_step(self, batches) -> MicroBatch:
        """The next micro-batch, on this rank's device."""
        return next(batches).to(torch.cuda.current_device())

    def forward_step(self, batch: MicroBatch) -> Tensor:
        """NLL at every label position [L] on the last pipeline stage, hidden states elsewhere."""
        packed = describe_documents(batch.documents, batch.positions) if batch.documents else None
        labels = Labels(batch.places, batch.labels)
        return self(batch.tokens, batch.positions, None, labels=labels, packed_seq_params=packed)

    @property
    def training_loss_reduction(self) -> WeightedLoss:
        """How a micro-batch's NLLs become the loss."""
        return WeightedLoss()
