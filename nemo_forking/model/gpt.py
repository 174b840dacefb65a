"""Megatron's GPT whose loss is computed at label positions only, run on the micro-batches the set step builds.

Shape letters: B batch, T tokens of this context-parallel rank, L label positions, H hidden.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from megatron.core import parallel_state
from megatron.core.models.gpt import GPTModel
from megatron.core.tensor_parallel.mappings import (
    copy_to_tensor_model_parallel_region,
    gather_from_sequence_parallel_region,
)
from torch import Tensor

from nemo_forking.data.batches import MicroBatch
from nemo_forking.losses.cross_entropy import vocab_parallel_nll
from nemo_forking.model.attention import describe_documents
from nemo_forking.model.layers import HAVE_TE


class Labels(NamedTuple):
    """Where the head is applied, and what is predicted there."""

    places_L: Tensor  # flat positions t * B + b in the hidden states [T, B, H]
    tokens_L: Tensor


class MicroBatchSteps:
    """How a pass runs a model on one micro-batch: the methods of the GPT below, and of NeMo's module around it."""

    def data_step(self, batches: Iterator[MicroBatch]) -> MicroBatch:
        """The next micro-batch, on this rank's device."""
        return next(batches).to(torch.cuda.current_device())

    def forward_step(self, batch: MicroBatch) -> Tensor:
        """NLL at every label position [L] on the last pipeline stage, hidden states elsewhere."""
        packed = None
        if batch.documents:
            packed = describe_documents(batch.documents, batch.positions, transformer_engine=HAVE_TE)
        labels = Labels(batch.places, batch.labels)
        return self(batch.tokens, batch.positions, None, labels=labels, packed_seq_params=packed)


class LabelRowsGPT(MicroBatchSteps, GPTModel):
    """Megatron's GPT with the head at label positions only, and rotary positions that restart at every document.

    Its configuration has one field more than Megatron's, `loss_chunk`: the label rows whose logits are held at a time.
    """

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
