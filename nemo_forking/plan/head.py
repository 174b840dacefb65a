"""The head: logits of one chunk of label places at a time, vocab-parallel (losses/cross_entropy.py)."""

from nemo_forking.config.schema import LayoutConfig, LossConfig, ModelConfig
from nemo_forking.plan.state import number_bytes

LOGIT = 4  # bytes: logits are float32 whatever the model's precision


def logit_bytes(model: ModelConfig, layout: LayoutConfig, loss: LossConfig, labels: float) -> float:
    """Logits of one chunk on one tensor-parallel rank of the last stage."""
    return LOGIT * min(loss.chunk, labels) * model.vocab_size / layout.tensor


def backward_bytes(model: ModelConfig, layout: LayoutConfig, labels: float) -> float:
    """What its backward holds besides: the weight's gradient in float32 and cast, that of the hidden states."""
    size, shard = number_bytes(model), model.vocab_size * model.hidden_size / layout.tensor
    return shard * (LOGIT + (size if size < LOGIT else 0)) + labels * model.hidden_size * size
