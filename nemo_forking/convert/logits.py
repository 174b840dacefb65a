"""Logits of converted weights against transformers' of their source, one layer in memory at a time.

Weights that lie in a Hugging Face folder are run by transformers' layers, those in a Megatron checkpoint by Megatron's,
which read its fused tensors as they are: a mistake in names, order of heads or configuration shows, as no comparison
of bytes can show it. All arithmetic is float32. Shape letters: B sequences, T tokens, H hidden, V vocabulary rows.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from nemo_forking.config import Config
from nemo_forking.errors import UserError
from nemo_forking.model.dist_checkpoint import DistCheckpoint
from nemo_forking.model.hf_folder import EMBEDDING, FINAL_NORM, HEAD
from nemo_forking.model.names import NORMS
from nemo_forking.model.sources import Source
from nemo_forking.training import quiet

SEQUENCES, LENGTH = 4, 32
TOLERANCE = 1e-3  # of a token's hidden state, relative; other orders of summation in float32 make 1e-6 to 1e-5
ROWS = 16384  # of the head that are float32 at a time

Outputs = Iterator[tuple[str, Tensor]]  # (tensors' common name, hidden states [B, T, H]), the logits [B, T, V] last


@dataclass(frozen=True)
class Difference:
    """Largest differences over all tokens and vocabulary rows."""

    tokens: int
    logits: float
    log_probabilities: float


def sample(tokens: int, longest: int, seed: int = 0) -> Tensor:
    """[B, T] ids below `tokens`; the largest ones, a tagged tokenizer's tags, are always among them."""
    length = min(LENGTH, longest)
    ids_BT = torch.randint(tokens, (SEQUENCES, length), generator=torch.Generator().manual_seed(seed))
    last = min(length // 2, tokens)
    ids_BT[-1, :last] = torch.arange(tokens - last, tokens)
    return ids_BT


def compare(expected: Outputs, found: Outputs, where: str) -> Difference:
    """Step through both models at once.

    Raises:
        UserError: naming the first layer whose output differs for any token by more than TOLERANCE, relatively.
    """
    for (place, ours), (_, theirs) in zip(found, expected, strict=True):
        difference = float(((ours - theirs).norm(dim=-1) / theirs.norm(dim=-1).clamp_min(1e-30)).max())
        if not difference <= TOLERANCE:  # nan too
            raise UserError(
                f"{where}: {place} computes otherwise than transformers: what leaves it differs by {difference:.1e} of "
                f"its size, allowed are {TOLERANCE:.0e}; compare config.json with the model group, convert again"
            )
    pairs = list(zip(ours.flatten(0, 1), theirs.flatten(0, 1), strict=True))  # [V] of every token
    return Difference(
        len(pairs),
        max(float((a - b).abs().max()) for a, b in pairs),
        max(float((a.double().log_softmax(-1) - b.double().log_softmax(-1)).abs().max()) for a, b in pairs),
    )


# ---------------------------------------------------------------- transformers


@torch.no_grad()
def transformers_outputs(values: dict, source: Source, ids_BT: Tensor) -> Outputs:
    """What leaves the embedding, every layer and the head; `values` are of config.json."""
    from transformers import Qwen2Config
    from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm, Qwen2RotaryEmbedding

    config = Qwen2Config.from_dict(values)
    config._attn_implementation = "sdpa"
    hidden_BTH = F.embedding(ids_BT, source(EMBEDDING)).float()
    yield EMBEDDING, hidden_BTH
    positions = torch.arange(ids_BT.size(1))[None]
    rotary = Qwen2RotaryEmbedding(config)(hidden_BTH, positions)
    for number in range(config.num_hidden_layers):
        hidden_BTH = _transformers_layer(config, number, source, hidden_BTH, positions, rotary)
        yield f"model.layers.{number}", hidden_BTH
    norm = Qwen2RMSNorm(config.hidden_size, config.rms_norm_eps)
    norm.weight.copy_(source(FINAL_NORM))
    yield HEAD, _head(norm(hidden_BTH), source(EMBEDDING if config.tie_word_embeddings else HEAD))


def _transformers_layer(config, number: int, source: Source, hidden_BTH: Tensor, positions, rotary) -> Tensor:
    from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer

    with torch.device("meta"):
        layer = Qwen2DecoderLayer(config, number)
    weights = {name: source(f"model.layers.{number}.{name}").float() for name in layer.state_dict()}
    layer.load_state_dict(weights, assign=True)
    out = layer(hidden_BTH, attention_mask=None, position_ids=positions, position_embeddings=rotary)
    return out[0] if isinstance(out, tuple) else out


def _head(hidden_BTH: Tensor, weight_VH: Tensor) -> Tensor:
    return torch.cat([hidden_BTH @ rows.float().T for rows in weight_VH.split(ROWS)], -1)


# ---------------------------------------------------------------- Megatron


def prepare_megatron() -> None:
    """Make this process Megatron's only rank, on the CPU. Once, before megatron_outputs, in a process of its own."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    with quiet.imports():
        from megatron.core import parallel_state

        from nemo_forking.model import cpu, qwen2  # noqa: F401 - NeMo, which talks
    quiet.logs()
    cpu.install()
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    parallel_state.initialize_model_parallel()


@torch.no_grad()
def megatron_outputs(config: Config, checkpoint: DistCheckpoint, ids_BT: Tensor) -> Outputs:
    """What leaves the embedding, every layer and the head of the model that training builds from `config`."""
    from megatron.core.models.common.embeddings.rotary_pos_embedding import RotaryEmbedding

    from nemo_forking.model.layers import layer_spec

    shape = _of_one_process(config)
    block = layer_spec(shape)
    embedding_VH = checkpoint.read("embedding.word_embeddings.weight", None)
    hidden_TBH = F.embedding(ids_BT.T, embedding_VH).float()
    del embedding_VH
    yield EMBEDDING, hidden_TBH.transpose(0, 1)
    rotary = RotaryEmbedding(
        shape.kv_channels, shape.rotary_percent, rotary_base=shape.rotary_base, use_cpu_initialization=True
    )(ids_BT.size(1))
    for number in range(shape.num_layers):
        hidden_TBH = _megatron_layer(shape, block.layer_specs[number], number, checkpoint, hidden_TBH, rotary)
        yield f"model.layers.{number}", hidden_TBH.transpose(0, 1)
    norm = block.layer_norm(shape, shape.hidden_size, eps=shape.layernorm_epsilon)
    norm.weight.copy_(checkpoint.read("decoder.final_layernorm.weight", None))
    tied = shape.share_embeddings_and_output_weights
    head_VH = checkpoint.read("embedding.word_embeddings.weight" if tied else "output_layer.weight", None)
    yield HEAD, _head(norm(hidden_TBH).transpose(0, 1), head_VH)


def _of_one_process(config: Config):
    """The model's configuration as training makes it, without what serves speed or several processes."""
    from nemo_forking.model.qwen2 import megatron_config

    alone = {"accelerator": "cpu", "recompute": "none", "virtual_pipeline": None, "fp8": None, "compile": False}
    shape = megatron_config(dataclasses.replace(config, layout=dataclasses.replace(config.layout, **alone)))
    shape.perform_initialization = False
    return shape


def _megatron_layer(shape, spec, number: int, checkpoint: DistCheckpoint, hidden_TBH: Tensor, rotary) -> Tensor:
    from megatron.core.transformer.spec_utils import build_module

    with torch.device("meta"):
        layer = build_module(spec, config=shape, layer_number=number + 1)
    weights = {
        name: checkpoint.read(f"decoder.layers.{NORMS.get(name, name)}", number).float().reshape(parameter.shape)
        for name, parameter in layer.named_parameters()
    }
    layer.load_state_dict(weights, assign=True)
    return layer(hidden_TBH, attention_mask=None, rotary_pos_emb=rotary)[0]
