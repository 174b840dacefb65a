"""Qwen2 weights between Hugging Face names and this rank's part of a Megatron model, any TP x PP x VPP layout."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.transformer.transformer_layer import get_transformer_layer_offset
from torch import Tensor, nn

from nemo_forking import pulse
from nemo_forking.errors import UserError
from nemo_forking.files import flush, flush_all
from nemo_forking.model.hf_folder import EMBEDDING, HEAD, ModelShape, tensor_shape, tensor_shapes
from nemo_forking.model.names import LAYER, OUTSIDE, fuse, split
from nemo_forking.model.shards import SHARD_BYTES, Shard, lay_out, plan_shards, put, write_index
from nemo_forking.model.sources import Source
from nemo_forking.storage import storing


def qwen2_shape(config) -> ModelShape:
    """The numbers that decide the Hugging Face shapes, of a Megatron configuration."""
    return SimpleNamespace(
        num_layers=config.num_layers,
        hidden_size=config.hidden_size,
        ffn_hidden_size=config.ffn_hidden_size,
        num_attention_heads=config.num_attention_heads,
        num_query_groups=config.num_query_groups,
        head_dim=config.kv_channels,
        vocab_size=config.vocab_size,
        tie_embeddings=config.share_embeddings_and_output_weights,
    )


# ---------------------------------------------------------------- into Megatron


@torch.no_grad()
def load(model: nn.Module, source: Source) -> None:
    """Copy the source's weights into this rank's part of a Megatron GPT (not yet wrapped).

    Raises UserError naming a tensor whose shape differs from the configuration's. No collectives.
    """
    rank = parallel_state.get_tensor_model_parallel_rank()
    ranks = parallel_state.get_tensor_model_parallel_world_size()
    for name, param in model.named_parameters():
        pulse.beat()
        names = _hf_names(model, name)
        if model.share_embeddings_and_output_weights and names == [HEAD]:
            names = [EMBEDDING]  # the last pipeline stage's copy, whatever the source holds for the head
        parts = [_checked(source(n), n, model.config) for n in names]
        full, dim = fuse(qwen2_shape(model.config), name, parts), _sharded_dim(name, param)
        shard = full if dim < 0 else full.chunk(ranks, dim)[rank]
        param.copy_(shard.reshape(param.shape))


def _checked(tensor: Tensor, name: str, config) -> Tensor:
    expected = tensor_shape(qwen2_shape(config), name)
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
        yield from zip(_hf_names(model, name), split(qwen2_shape(model.config), name, part), strict=True)


def export(
    chunks: list[nn.Module],
    folder: Path,
    *,
    hf_config: dict,
    tokenizer,
    provenance: dict,
    seal: Callable[[Path], None] | None = None,
) -> Path:
    """Write a Hugging Face folder that `transformers` loads, in files of at most SHARD_BYTES bytes of tensors.

    Every tensor is written as soon as it is gathered, so that no rank holds more than one beside its own part; the
    files are the same under every layout. The folder is written aside and renamed when whole. Every rank must call it;
    collectives: all-gathers over TP, world barriers. `seal`, called on every rank, writes down what the folder holds
    (training.integrity); without it the folder is for the moment only, and is not pushed to the disk either.

    Raises UserError where the disk is full, or the folder not to be written.
    """
    with storing(folder.parent):
        aside = _write(chunks, folder, hf_config, tokenizer, provenance)
        if seal:
            seal(aside)
        if dist.get_rank() == 0:
            if seal:
                flush_all(aside)
            if folder.exists():
                shutil.rmtree(folder)
            aside.rename(folder)
            if seal:
                flush(folder.parent)
    dist.barrier()
    return folder


def _write(chunks: list[nn.Module], folder: Path, hf_config: dict, tokenizer, provenance: dict) -> Path:
    """Write all files, under another name."""
    aside, stage = folder.with_name(f".{folder.name}.partial"), parallel_state.get_pipeline_model_parallel_rank()
    dtype = next(chunks[0].parameters()).dtype
    shapes = tensor_shapes(qwen2_shape(chunks[0].config))
    shards = plan_shards({name: (dtype, shape) for name, shape in shapes.items()}, SHARD_BYTES)
    places = {name: place for shard in shards for name, place in shard.places.items()}
    if dist.get_rank() == 0:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        for shard in shards:
            lay_out(aside / shard.file, shard)
    dist.barrier()
    first = parallel_state.get_tensor_model_parallel_rank() == 0 and parallel_state.get_data_parallel_rank(True) == 0
    written = []
    for name, tensor in (pair for chunk in chunks for pair in stage_tensors(chunk)):
        if first and name in places:  # a tied model's last stage has a copy of the embedding as its head
            put(aside / places[name].file, name, places[name], tensor)
            written.append(name)
    if first:
        (aside / f".{stage}.names").write_text(json.dumps(written))
    dist.barrier()
    if dist.get_rank() == 0:
        _finish(aside, shards, hf_config, tokenizer, provenance)
    dist.barrier()
    return aside


def _finish(aside: Path, shards: list[Shard], hf_config: dict, tokenizer, provenance: dict) -> None:
    missing = {name for shard in shards for name in shard.places}
    for names in aside.glob(".*.names"):
        missing -= set(json.loads(names.read_text()))
        names.unlink()
    if missing:
        raise RuntimeError(f"{aside}: no pipeline stage wrote {sorted(missing)}")
    write_index(aside, shards)
    (aside / "config.json").write_text(json.dumps(hf_config, indent=1))
    (aside / "provenance.json").write_text(json.dumps(provenance, indent=1))
    tokenizer.save_pretrained(aside)
