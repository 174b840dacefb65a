"""Qwen2 weights between Hugging Face names and this rank's part of a Megatron model, any TP x PP x VPP layout.

A source is a function from a Hugging Face tensor name to the whole tensor; every rank reads what it holds.
"""

import json
import re
import shutil
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.transformer.transformer_layer import get_transformer_layer_offset
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from nemo_forking.errors import UserError
from nemo_forking.tags import Tags, initial_rows

Source = Callable[[str], Tensor]

# Megatron's name inside a layer -> the Hugging Face tensors it is made of. Fused tensors list their parts in order.
LAYER = {
    "self_attention.linear_qkv.weight": (
        "self_attn.q_proj.weight",
        "self_attn.k_proj.weight",
        "self_attn.v_proj.weight",
    ),
    "self_attention.linear_qkv.bias": ("self_attn.q_proj.bias", "self_attn.k_proj.bias", "self_attn.v_proj.bias"),
    "self_attention.linear_proj.weight": ("self_attn.o_proj.weight",),
    "mlp.linear_fc1.weight": ("mlp.gate_proj.weight", "mlp.up_proj.weight"),
    "mlp.linear_fc2.weight": ("mlp.down_proj.weight",),
    "input_layernorm.weight": ("input_layernorm.weight",),
    "pre_mlp_layernorm.weight": ("post_attention_layernorm.weight",),
    # Transformer Engine fuses the norms into the linears that follow them
    "self_attention.linear_qkv.layer_norm_weight": ("input_layernorm.weight",),
    "mlp.linear_fc1.layer_norm_weight": ("post_attention_layernorm.weight",),
}
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
OUTSIDE = {
    "embedding.word_embeddings.weight": (EMBEDDING,),
    "output_layer.weight": (HEAD,),
    "decoder.final_layernorm.weight": ("model.norm.weight",),
}


# ---------------------------------------------------------------- sources


def from_folder(folder: str | Path) -> Source:
    """A Hugging Face checkpoint folder with safetensors files. Raises UserError naming a missing file or tensor."""
    folder = Path(folder)
    index = folder / "model.safetensors.index.json"
    if index.exists():
        files = json.loads(index.read_text())["weight_map"]
    elif (folder / "model.safetensors").exists():
        with safe_open(folder / "model.safetensors", "pt") as f:
            files = dict.fromkeys(f.keys(), "model.safetensors")
    else:
        raise UserError(f"model.base={folder}: no model.safetensors and no model.safetensors.index.json there")

    def get(name: str) -> Tensor:
        if name == HEAD and HEAD not in files:
            name = EMBEDDING  # tied
        if name not in files:
            raise UserError(f"model.base={folder}: tensor {name} is not in the checkpoint; is it a Qwen2 model?")
        with safe_open(folder / files[name], "pt") as f:
            return f.get_tensor(name)

    return get


def from_seed(shapes: Callable[[str], tuple[int, ...]], seed: int, std: float) -> Source:
    """Random weights, each tensor from a generator seeded by its own name: the same under every layout.

    Norms are 1, biases 0, matrices normal with `std`, as transformers initialises Qwen2.
    """

    def get(name: str) -> Tensor:
        shape = shapes(name)
        if len(shape) == 1:
            return torch.zeros(shape) if name.endswith("bias") else torch.ones(shape)
        generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))
        return torch.randn(shape, generator=generator) * std

    return get


def with_tags(source: Source, tags: Tags, noise: float, seed: int) -> Source:
    """The same source with the tags' embedding and output rows initialised (tags.initial_rows); text tags need none."""
    if tags.spelling != "special":
        return source
    rows = [ids[0] for ids in tags.ids_NK]

    def get(name: str) -> Tensor:
        tensor = source(name)
        if name in (EMBEDDING, HEAD):
            tensor = tensor.clone()
            tensor[rows] = initial_rows(tags, tensor, None, noise, seed)
        return tensor

    return get


def hf_shape(config, name: str) -> tuple[int, ...]:
    """The shape a Hugging Face tensor has for this Megatron configuration."""
    hidden, ffn, size = config.hidden_size, config.ffn_hidden_size, config.kv_channels
    queries, keys = config.num_attention_heads * size, config.num_query_groups * size
    if name in (EMBEDDING, HEAD):
        return (config.vocab_size, hidden)
    for ending, shape in {
        "q_proj.weight": (queries, hidden),
        "k_proj.weight": (keys, hidden),
        "v_proj.weight": (keys, hidden),
        "q_proj.bias": (queries,),
        "k_proj.bias": (keys,),
        "v_proj.bias": (keys,),
        "o_proj.weight": (hidden, queries),
        "gate_proj.weight": (ffn, hidden),
        "up_proj.weight": (ffn, hidden),
        "down_proj.weight": (hidden, ffn),
    }.items():
        if name.endswith(ending):
            return shape
    return (hidden,)  # the norms


# ---------------------------------------------------------------- into Megatron


@torch.no_grad()
def load(model: nn.Module, source: Source) -> None:
    """Copy the source's weights into this rank's part of a Megatron GPT (not yet wrapped).

    Raises UserError naming a tensor whose shape differs from the configuration's. No collectives.
    """
    rank = parallel_state.get_tensor_model_parallel_rank()
    ranks = parallel_state.get_tensor_model_parallel_world_size()
    for name, param in model.named_parameters():
        names = _hf_names(model, name)
        if model.share_embeddings_and_output_weights and names == [HEAD]:
            names = [EMBEDDING]  # the last pipeline stage's copy, whatever the source holds for the head
        parts = [_checked(source(n), n, model.config) for n in names]
        full, dim = _fuse(model.config, name, parts), _sharded_dim(name, param)
        shard = full if dim < 0 else full.chunk(ranks, dim)[rank]
        param.copy_(shard.reshape(param.shape))


def _checked(tensor: Tensor, name: str, config) -> Tensor:
    expected = hf_shape(config, name)
    if tuple(tensor.shape) != expected:
        raise UserError(
            f"{name}: the checkpoint has shape {tuple(tensor.shape)}, the configuration asks for {expected}; "
            "set the model group (model.vocab_size, model.hidden_size, ...) to the checkpoint's config.json"
        )
    return tensor


def _hf_names(model: nn.Module, name: str) -> list[str]:
    if name in OUTSIDE:
        return list(OUTSIDE[name])
    layer, inside = re.fullmatch(r"decoder\.layers\.(\d+)\.(.+)", name).groups()
    number = int(layer) + get_transformer_layer_offset(model.config, model.vp_stage)
    return [f"model.layers.{number}.{part}" for part in LAYER[inside]]


def _fuse(config, name: str, parts: list[Tensor]) -> Tensor:
    """Megatron's whole tensor, with the sharded dimension as one that `chunk` can cut."""
    if "linear_qkv." in name and len(parts) == 3:  # per query group: its queries, its key, its value
        groups = config.num_query_groups
        return torch.cat([p.reshape(groups, -1, *p.shape[1:]) for p in parts], 1).flatten(0, 1)
    return parts[0] if len(parts) == 1 else torch.stack(parts)  # gate and up: [2, ffn, hidden]


def _split(config, name: str, full: Tensor) -> list[Tensor]:
    """The inverse of _fuse."""
    if name.endswith(("linear_qkv.weight", "linear_qkv.bias")):
        size, groups = config.kv_channels, config.num_query_groups
        sizes = [config.num_attention_heads // groups * size, size, size]
        parts = full.view(groups, sum(sizes), *full.shape[1:]).split(sizes, 1)
        return [p.flatten(0, 1) for p in parts]
    return list(full) if name.endswith("linear_fc1.weight") else [full]


def _sharded_dim(name: str, param: Tensor) -> int:
    """The dimension of the fused tensor that tensor parallelism cuts; -1 for replicated ones."""
    if not getattr(param, "tensor_model_parallel", False):
        return -1
    return param.partition_dim + name.endswith("linear_fc1.weight")


# ---------------------------------------------------------------- out of Megatron


def stage_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """(Hugging Face name, whole tensor) of this pipeline stage; every rank of the TP group must iterate.

    One all-gather per sharded tensor over the tensor-parallel group.
    """
    group = parallel_state.get_tensor_model_parallel_group()
    for name, param in model.named_parameters():
        part, dim = param.detach(), _sharded_dim(name, param)
        if name.endswith("linear_fc1.weight"):
            part = part.view(2, -1, part.size(-1))
        if dim >= 0 and group.size() > 1:
            shards = [torch.empty_like(part) for _ in range(group.size())]
            dist.all_gather(shards, part.contiguous(), group=group)
            part = torch.cat(shards, dim)
        yield from zip(_hf_names(model, name), _split(model.config, name, part), strict=True)


def export(chunks: list[nn.Module], folder: Path, *, hf_config: dict, tokenizer, provenance: dict) -> Path:
    """Write a Hugging Face folder that `transformers` loads, one safetensors file a pipeline stage.

    Written aside and renamed when whole. Every rank must call it; collectives: all-gathers over TP, world barriers.
    """
    aside, stage = folder.with_name(f".{folder.name}.partial"), parallel_state.get_pipeline_model_parallel_rank()
    if dist.get_rank() == 0:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
    dist.barrier()
    first = parallel_state.get_tensor_model_parallel_rank() == 0 and parallel_state.get_data_parallel_rank(True) == 0
    tensors = {}
    for name, tensor in (pair for chunk in chunks for pair in stage_tensors(chunk)):
        if first:  # the others only take part in the gathering: a node's ranks would hold the model many times over
            tensors[name] = tensor.cpu().contiguous()
    if chunks[0].config.share_embeddings_and_output_weights:
        tensors.pop(HEAD, None)
    stages = parallel_state.get_pipeline_model_parallel_world_size()
    if first:
        file = f"model-{stage + 1:05d}-of-{stages:05d}.safetensors"
        save_file(tensors, aside / file, metadata={"format": "pt"})
        (aside / f".{stage}.names").write_text(json.dumps({name: file for name in tensors}))
    dist.barrier()
    if dist.get_rank() == 0:
        _finish(aside, folder, stages, hf_config, tokenizer, provenance)
    dist.barrier()
    return folder


def _finish(aside: Path, folder: Path, stages: int, hf_config: dict, tokenizer, provenance: dict) -> None:
    weight_map = {}
    for stage in range(stages):
        names = aside / f".{stage}.names"
        weight_map.update(json.loads(names.read_text()))
        names.unlink()
    size = sum(f.stat().st_size for f in aside.glob("*.safetensors"))
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    (aside / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))
    (aside / "config.json").write_text(json.dumps(hf_config, indent=1))
    (aside / "provenance.json").write_text(json.dumps(provenance, indent=1))
    tokenizer.save_pretrained(aside)
    if folder.exists():
        shutil.rmtree(folder)
    aside.rename(folder)
