"""The tensors of a Qwen2 by their Hugging Face names and shapes, and whether a folder holds just these.

Neither NeMo nor Megatron is met here, and of files nothing but headers is read (weight_files).
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from nemo_forking.config import Config
from nemo_forking.config.schema import head_size
from nemo_forking.errors import UserError
from nemo_forking.weight_files import FLOATS, Entry, Shape, tensor_entries

EMBEDDING, HEAD, FINAL_NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"
BUFFER = "rotary_emb.inv_freq"  # of old exporters; worked out, not learnt
SHOWN = 8  # problems a message lists


class ModelShape(Protocol):
    """The numbers that decide the shapes of a Qwen2 (config.ModelConfig has them)."""

    num_layers: int
    hidden_size: int
    ffn_hidden_size: int
    num_attention_heads: int
    num_query_groups: int
    head_dim: int | None
    vocab_size: int
    tie_embeddings: bool


# ---------------------------------------------------------------- what a model has


def tensor_shapes(model: ModelShape) -> dict[str, Shape]:
    """Hugging Face name -> shape of every tensor of a Qwen2, in the order of the forward pass; no head when tied."""
    hidden = model.hidden_size
    shapes = {EMBEDDING: (model.vocab_size, hidden)}
    for layer in range(model.num_layers):
        shapes |= {f"model.layers.{layer}.{name}": shape for name, shape in _layer_shapes(model).items()}
    shapes[FINAL_NORM] = (hidden,)
    if not model.tie_embeddings:
        shapes[HEAD] = (model.vocab_size, hidden)
    return shapes


def tensor_shape(model: ModelShape, name: str) -> Shape:
    """The shape of one tensor by its Hugging Face name; a tied model's head has the embedding's."""
    if name in (EMBEDDING, HEAD):
        return (model.vocab_size, model.hidden_size)
    return (model.hidden_size,) if name == FINAL_NORM else _layer_shapes(model)[name.split(".", 3)[3]]


def _layer_shapes(model: ModelShape) -> dict[str, Shape]:
    hidden, ffn = model.hidden_size, model.ffn_hidden_size
    size = head_size(model)
    queries, keys = model.num_attention_heads * size, model.num_query_groups * size
    return {
        "input_layernorm.weight": (hidden,),
        "self_attn.q_proj.weight": (queries, hidden),
        "self_attn.q_proj.bias": (queries,),
        "self_attn.k_proj.weight": (keys, hidden),
        "self_attn.k_proj.bias": (keys,),
        "self_attn.v_proj.weight": (keys, hidden),
        "self_attn.v_proj.bias": (keys,),
        "self_attn.o_proj.weight": (hidden, queries),
        "post_attention_layernorm.weight": (hidden,),
        "mlp.gate_proj.weight": (ffn, hidden),
        "mlp.up_proj.weight": (ffn, hidden),
        "mlp.down_proj.weight": (hidden, ffn),
    }


def hf_config(config: Config, tokenizer) -> dict:
    """The config.json of an exported model."""
    m = config.model
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_act": "silu",
        "hidden_size": m.hidden_size,
        "intermediate_size": m.ffn_hidden_size,
        "num_hidden_layers": m.num_layers,
        "num_attention_heads": m.num_attention_heads,
        "num_key_value_heads": m.num_query_groups,
        "head_dim": head_size(m),
        "vocab_size": m.vocab_size,
        "rope_theta": m.rope_theta,
        "rms_norm_eps": m.norm_eps,
        "tie_word_embeddings": m.tie_embeddings,
        "max_position_embeddings": m.max_length,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "use_cache": True,
        "torch_dtype": "float32" if m.precision == "fp32" else "bfloat16",
    }


# ---------------------------------------------------------------- whether a folder holds it


def check_folder(folder: str | Path, model: ModelShape, key: str = "model.base") -> dict[str, Entry]:
    """The entries of a folder that holds just the tensors of this model, each of its shape and in whole files.

    A tied model may bring its head as well, as some exporters write it. Reads headers only.

    Raises:
        UserError: naming file or tensor, shape expected and shape found; all that is wrong, up to eight.
    """
    try:
        found = tensor_entries(folder)
    except UserError as error:
        raise UserError(f"{key}={error}") from None
    expected = tensor_shapes(model)
    wrong = []
    for name in sorted(expected.keys() | found.keys(), key=lambda name: (name not in expected, name)):
        if name not in found:
            wrong.append(f"tensor {name}: expected shape {expected[name]}, it is not in the checkpoint")
        elif name.endswith(BUFFER):
            continue
        elif name not in expected and not (name == HEAD and model.tie_embeddings):
            wrong.append(f"tensor {name}: found shape {found[name].shape}, the configured model has no such tensor")
        elif found[name].shape != expected.get(name, expected[EMBEDDING]):
            wrong.append(
                f"tensor {name}: expected shape {expected.get(name, expected[EMBEDDING])}, found {found[name].shape}"
            )
        elif found[name].dtype not in FLOATS:
            wrong.append(f"tensor {name}: expected floating-point numbers, found {found[name].dtype}")
    if wrong:
        raise not_the_model(f"{key}={folder}", wrong)
    return found


def listed(wrong: list[str]) -> str:
    """The first eight of what is wrong, a line each, and how many there are besides."""
    more = [f"and {len(wrong) - SHOWN} more"] * (len(wrong) > SHOWN)
    return "\n".join(f"  {line}" for line in wrong[:SHOWN] + more)


def not_the_model(where: str, wrong: list[str]) -> UserError:
    """The error that lists what is not as the configured model has it."""
    return UserError(
        f"{where}: not the configured model\n{listed(wrong)}\n"
        "remedy: set the model group (model.num_layers, model.hidden_size, ...) to the checkpoint's config.json"
    )
