"""Small shapes of Qwen2, in the model group's words and in transformers'."""

from dataclasses import dataclass

from transformers import Qwen2Config


@dataclass(frozen=True)
class Shape:
    """What the model group says of a model's tensors."""

    num_layers: int = 2
    hidden_size: int = 16
    ffn_hidden_size: int = 24
    num_attention_heads: int = 4
    num_query_groups: int = 2
    head_dim: int | None = None
    vocab_size: int = 40
    tie_embeddings: bool = False


def qwen2_config(model, **more) -> Qwen2Config:
    """A model's shape (Shape, or the model group) in transformers' words; `more` as transformers has it."""
    return Qwen2Config(
        hidden_size=model.hidden_size,
        intermediate_size=model.ffn_hidden_size,
        num_hidden_layers=model.num_layers,
        num_attention_heads=model.num_attention_heads,
        num_key_value_heads=model.num_query_groups,
        vocab_size=model.vocab_size,
        tie_word_embeddings=model.tie_embeddings,
        **({"head_dim": model.head_dim} if model.head_dim else {}),
        **more,
    )
