"""Parameters of one rank: what tensor and pipeline parallelism leave it of the model."""

from nemo_forking.config.schema import LayoutConfig, ModelConfig, head_size


def model_parameters(model: ModelConfig) -> int:
    """Parameters of the whole model, tied embeddings once."""
    ends = model.vocab_size * model.hidden_size * (1 if model.tie_embeddings else 2)
    return model.num_layers * layer_parameters(model) + ends + model.hidden_size


def layer_parameters(model: ModelConfig, tensor: int = 1) -> int:
    """Parameters of one layer on one of `tensor` ranks: linears are split, norms are not."""
    queries, keys = head_widths(model)
    return linear_parameters(model, tensor) + (queries + 2 * keys) // tensor + 2 * model.hidden_size  # q, k, v's biases


def linear_parameters(model: ModelConfig, tensor: int = 1) -> int:
    """Weights of one layer's matrix products on one of `tensor` ranks."""
    queries, keys = head_widths(model)
    return model.hidden_size * (2 * queries + 2 * keys + 3 * model.ffn_hidden_size) // tensor


def rank_parameters(model: ModelConfig, layout: LayoutConfig, stage: int) -> int:
    """Parameters of a rank of pipeline stage `stage` (from 0).

    The first stage has the embedding, the last one the final norm and the output layer: a copy of the embedding where
    both are tied and lie on different stages.
    """
    first, last = stage == 0, stage == layout.pipeline - 1
    shard = model.vocab_size * model.hidden_size // layout.tensor
    layers = model.num_layers // layout.pipeline * layer_parameters(model, layout.tensor)
    output = last and not (model.tie_embeddings and first)
    return layers + shard * (first + output) + (model.hidden_size if last else 0)


def head_widths(model: ModelConfig) -> tuple[int, int]:
    """(Width of all query heads, width of all key heads)."""
    size = head_size(model)
    return model.num_attention_heads * size, model.num_query_groups * size
