"""What the headers of a Hugging Face folder's safetensors files tell: which tensors, of what shape, and whether whole.

A safetensors file is 8 bytes (length of the header, little-endian), the header (JSON: name -> dtype, shape, first and
last byte), and the bytes of the tensors. Nothing but the headers is read here, and neither NeMo nor Megatron is met.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from nemo_forking.config import Config
from nemo_forking.errors import UserError

EMBEDDING, HEAD, FINAL_NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"
INDEX = "model.safetensors.index.json"
BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
BUFFER = "rotary_emb.inv_freq"  # of old exporters; worked out, not learnt
SHOWN = 8  # problems a message lists
LARGEST_HEADER = 100_000_000  # bytes; the limit of the safetensors library


Shape = tuple[int, ...]


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


@dataclass(frozen=True)
class Entry:
    """Where one tensor lies: its file, safetensors dtype, shape, and its bytes from `start` to `end` of the file."""

    file: Path
    dtype: str
    shape: Shape
    start: int
    end: int


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
    size = model.head_dim or hidden // model.num_attention_heads
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
        "head_dim": m.head_dim or m.hidden_size // m.num_attention_heads,
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


# ---------------------------------------------------------------- what a folder has


def read_header(file: Path) -> dict[str, Entry]:
    """Name -> entry of every tensor in one safetensors file.

    Raises:
        UserError: the file is no safetensors file, is shorter or longer than its header says, or a tensor's bytes are
            not those of its shape; the message names the file and, where it is one tensor, that tensor.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > min(size - 8, LARGEST_HEADER):
            raise _damaged(file, f"it has {size:,} bytes, but its header would end at byte {length + 8:,}")
        text = stream.read(length)
    try:
        rows = json.loads(text)
        rows.pop("__metadata__", None)
        entries = {
            name: Entry(file, row["dtype"], tuple(row["shape"]), *(8 + length + at for at in row["data_offsets"]))
            for name, row in rows.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(file, f"its header is not readable ({error!r})") from None
    end = 8 + length
    for name, entry in sorted(entries.items(), key=lambda item: item[1].start):
        wanted = math.prod(entry.shape) * BYTES.get(entry.dtype, 0)
        if entry.dtype in BYTES and entry.end - entry.start != wanted or entry.start != end:
            raise _damaged(
                file,
                f"tensor {name}, {entry.dtype} of shape {entry.shape}, is said to lie in bytes {entry.start:,} to "
                f"{entry.end:,}; expected {wanted:,} bytes from {end:,} on",
            )
        if entry.end > size:
            raise _damaged(
                file,
                f"cut off inside tensor {name} of shape {entry.shape}, which ends at byte {entry.end:,}: the file has "
                f"{size:,} bytes",
            )
        end = entry.end
    if size != end:
        raise _damaged(file, f"it has {size:,} bytes, its header tells of {end:,}")
    return entries


def _damaged(file: Path, why: str) -> UserError:
    return UserError(f"{file}: not a whole safetensors file: {why}; copy or download it again")


def tensor_entries(folder: str | Path) -> dict[str, Entry]:
    """Name -> entry of every tensor of a Hugging Face folder, by its index where it has one.

    Raises:
        UserError: no weights there, a file missing or damaged, or an index that does not say what its files hold.
    """
    folder = Path(folder)
    if not (folder / INDEX).is_file():
        if not (folder / "model.safetensors").is_file():
            raise UserError(f"{folder}: no model.safetensors and no {INDEX} there; give a Hugging Face model folder")
        return read_header(folder / "model.safetensors")
    try:
        files = dict(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder / INDEX}: not an index of safetensors files ({error!r}); copy it again") from None
    entries: dict[str, Entry] = {}
    for name in sorted(set(files.values())):
        if not (folder / name).is_file():
            raise UserError(f"{folder / INDEX}: names {name}, which is not there; copy it too")
        entries |= {key: entry for key, entry in read_header(folder / name).items() if files.get(key) == name}
    if missing := sorted(files.keys() - entries.keys()):
        raise UserError(
            f"{folder / files[missing[0]]}: lacks tensor {missing[0]}, which {INDEX} says it holds (as "
            f"{len(missing)} in all); the files are of different exports: copy all of them from one place"
        )
    return entries


def check_folder(folder: str | Path, model: ModelShape, key: str = "model.base") -> dict[str, Entry]:
    """The entries of a folder that holds just the tensors of this model, each of its shape and in whole files.

    A tied model may bring its head as well, as some exporters write it. Takes milliseconds for 65 GB: headers only.

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
        elif found[name].dtype not in ("F64", "F32", "F16", "BF16"):
            wrong.append(f"tensor {name}: expected floating-point numbers, found {found[name].dtype}")
    if wrong:
        lines = [f"  {line}" for line in wrong[:SHOWN]] + [f"  and {len(wrong) - SHOWN} more"] * (len(wrong) > SHOWN)
        raise UserError(
            f"{key}={folder}: not the configured model\n" + "\n".join(lines) + "\n"
            "remedy: set the model group (model.num_layers, model.hidden_size, ...) to the checkpoint's config.json"
        )
    return found
