"""The NeMo model: Qwen2 on Megatron (gpt.py), its weighted loss, and an optimizer that leaves the weights alone.

Shape letters: L label positions.
"""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.distributed import finalize_model_grads
from nemo.collections.llm.gpt.model.qwen2 import Qwen2Config, Qwen2Model
from nemo.lightning.megatron_parallel import MegatronLossReduction
from nemo.lightning.pytorch.optim import MegatronOptimizerModule
from torch import Tensor

from nemo_forking.config import Config
from nemo_forking.config.schema import head_size
from nemo_forking.data.batches import MicroBatch
from nemo_forking.model.gpt import LabelRowsGPT, MicroBatchSteps
from nemo_forking.model.layers import layer_spec
from nemo_forking.model.weights import Source, load


@dataclass
class ForkingQwen2Config(Qwen2Config):
    """NeMo's Qwen2 configuration, building LabelRowsGPT.

    `loss_chunk` bounds the head's logits in memory; `compile` fuses what is element-wise (fused.py).
    """

    transformer_layer_spec: object = layer_spec
    calculate_per_token_loss: bool = True  # gradients are summed over data parallel, never averaged
    loss_chunk: int = 1024
    compile: bool = False

    def configure_model(self, tokenizer=None, pre_process=None, post_process=None, vp_stage=None) -> LabelRowsGPT:
        """Build this rank's part of the model."""
        model = super().configure_model(tokenizer, pre_process, post_process, vp_stage)
        model.__class__ = LabelRowsGPT  # NeMo names Megatron's class in its builder; ours differs in methods only
        return model


def megatron_config(config: Config) -> ForkingQwen2Config:
    """The model as Megatron is to build it, under the layout."""
    m, layout = config.model, config.layout
    on_cpu = layout.accelerator == "cpu"
    recompute = {
        "none": {},
        "selective": {"recompute_granularity": "selective"},
        "full": {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1},
    }[layout.recompute]
    # gloo frees a sent activation too early when outputs are deallocated, and mixes up batched sends of an interleaved
    # pipeline of two: see docs/performance.md
    cpu_only = {
        "use_cpu_initialization": True,
        "masked_softmax_fusion": False,
        "bias_activation_fusion": False,
        "gradient_accumulation_fusion": False,
        "deallocate_pipeline_outputs": False,
        "batch_p2p_sync": False,
        "batch_p2p_comm": not layout.virtual_pipeline,
        "overlap_p2p_comm": bool(layout.virtual_pipeline),
    }
    return ForkingQwen2Config(
        num_layers=m.num_layers,
        hidden_size=m.hidden_size,
        ffn_hidden_size=m.ffn_hidden_size,
        num_attention_heads=m.num_attention_heads,
        num_query_groups=m.num_query_groups,
        kv_channels=head_size(m),
        vocab_size=m.vocab_size,
        seq_length=m.max_length,
        rotary_base=m.rope_theta,
        layernorm_epsilon=m.norm_eps,
        share_embeddings_and_output_weights=m.tie_embeddings,
        init_method_std=m.init_std,
        cross_entropy_loss_fusion=False,
        loss_chunk=config.loss.chunk,
        compile=layout.compile,
        **recompute,
        **(cpu_only if on_cpu else {}),
    )


RowsSeen = list[tuple[tuple[int, ...], Tensor]]  # of every micro-batch its rows' names, and [rows] a count


class WeightedLoss(MegatronLossReduction):
    """Sum of weight x NLL; the weights already hold the one global denominator (losses/normalise.py).

    Attributes:
        seen: of every micro-batch since `begin`, how many of each row's NLLs are not finite.
    """

    seen: RowsSeen

    def begin(self) -> None:
        """Forget the step before."""
        self.seen = []

    def look(self, batch: MicroBatch, nll_L: Tensor) -> None:
        """Note which rows are not finite, without waiting for the device."""
        bad_R = torch.zeros(len(batch.rows), device=nll_L.device)
        self.seen.append((batch.rows, bad_R.index_add_(0, batch.row, (~nll_L.detach().isfinite()).float())))

    def forward(self, batch: MicroBatch, nll_L: Tensor):
        """(loss, token count, report) as Megatron's schedules want it; the count is unused, see WeightedOptimizer."""
        self.look(batch, nll_L)
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


class ForkingQwen2Model(MicroBatchSteps, Qwen2Model):
    """NeMo's Qwen2 on our micro-batches.

    Args:
        config: its shape.
        optim: the optimizer.
        loss: how a micro-batch's NLLs become the loss; the chunks of an interleaved pipeline share it.
        weights: what it starts from; None when a checkpoint will be loaded.
    """

    def __init__(
        self,
        config: ForkingQwen2Config,
        optim: WeightedOptimizer,
        loss: WeightedLoss,
        weights: Source | None = None,
    ):
        super().__init__(config, optim=optim)
        self.weights, self.loss = weights, loss

    def configure_model(self, vp_stage: int | None = None) -> None:
        """Build this rank's part and copy its weights in, before DDP and the optimizer take hold of them."""
        built = hasattr(self, "module")
        super().configure_model(vp_stage=vp_stage)
        if not built and self.weights:
            load(self.module, self.weights)

    @property
    def training_loss_reduction(self) -> WeightedLoss:
        """How a micro-batch's NLLs become the loss."""
        return self.loss
