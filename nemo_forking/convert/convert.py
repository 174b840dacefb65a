"""Weights from one kind of folder into another, in one process on the CPU, a tensor at a time.

Source and result are each a Hugging Face folder or a Megatron distributed checkpoint (of a training run, or written
here, without an optimizer). Files are finished one after another: a conversion that was ended keeps those.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nemo_forking.checksums import record_problem
from nemo_forking.config import Config
from nemo_forking.convert.logits import (
    Difference,
    compare,
    megatron_outputs,
    prepare_megatron,
    sample,
    transformers_outputs,
)
from nemo_forking.data.encoding import load_tokenizer
from nemo_forking.engines.folder import model_config
from nemo_forking.errors import UserError
from nemo_forking.files import alone, flush, flush_all, write_aside
from nemo_forking.model.base import is_checkpoint
from nemo_forking.model.dist_checkpoint import DistCheckpoint
from nemo_forking.model.dist_writer import check_dtypes, write_files
from nemo_forking.model.hf_folder import check_folder, hf_config, tensor_shapes
from nemo_forking.model.shards import NAMES, Shard, lay_out, plan_shards, put, write_index
from nemo_forking.model.sources import Source, from_folder, with_tags
from nemo_forking.storage import storing
from nemo_forking.tags import Tags, add_to_tokenizer, make_tags, tag_text
from nemo_forking.training.identity import fingerprint
from nemo_forking.training.launch import fork_ranks
from nemo_forking.weight_files import Shape

TORCH = {name: dtype for dtype, name in NAMES.items()}
RECORD = "provenance.json"  # tells what a folder is the result of, or will be when it is whole


@dataclass(frozen=True)
class Opened:
    """A source of weights, found to be whole.

    Attributes:
        tensors: Hugging Face name -> (dtype, shape), in the order of the forward pass.
        source: Hugging Face name -> tensor, tags' rows included where the result has tags.
        hf_config: config.json of the result.
        tokenizer: of the result.
        identity: all that the result's bytes depend on (json).
        checkpoint: the source, where it is a Megatron checkpoint.
    """

    tensors: Mapping[str, tuple[torch.dtype, Shape]]
    source: Source
    hf_config: dict
    tokenizer: Any
    identity: dict
    checkpoint: DistCheckpoint | None = None


def convert(config: Config, tell: Callable[[str], None] = print) -> Path:
    """Write `convert.folder` from `convert.source`, unless it is there already, and compare the two.

    Raises:
        UserError: a source that is damaged or is not the configured model, naming the tensor, the shape expected and
            the shape found; a folder that holds something else, that another process is writing, or that has no room;
            a written tensor, or a layer's output, that differs from the source's.
    """
    opened, folder = open_source(config), Path(config.convert.folder)
    lock = folder.with_name(f".{folder.name}.lock")
    with storing(folder.parent), alone(lock, f"converts into convert.folder={folder}"):
        if is_converted(folder, opened.identity):
            tell(f"{folder} is there already")
        else:
            write_folder(folder, config, opened, tell)
        if config.convert.verify:
            verify(folder, config, opened)
            tell(f"{folder}: all {len(opened.tensors)} tensors are the source's, bit for bit")
    if config.convert.verify_logits:
        found = fork_ranks(compare_logits, 1, folder, config, opened)[0]
        tell(
            f"{folder}: logits of {found.tokens} tokens differ from transformers' by at most {found.logits:.1e}, "
            f"log-probabilities by {found.log_probabilities:.1e}"
        )
    return folder


# ---------------------------------------------------------------- from


def open_source(config: Config) -> Opened:
    """Look at `convert.source`, headers only.

    Raises:
        UserError: it is not whole, or is not the configured model.
    """
    folder = config.convert.source
    if not folder:
        raise UserError("convert.source is not set; give a Hugging Face folder, or runs/<run>/checkpoints/step_<n>")
    tokenizer = load_tokenizer(config.data.tokenizer)
    open_it = _open_checkpoint if is_checkpoint(folder) else _open_hugging_face
    opened = open_it(config, Path(folder), tokenizer)
    if config.convert.to == "megatron":
        check_dtypes(config.model, opened.tensors, f"convert.source={folder}")
    return opened


def _open_hugging_face(config: Config, folder: Path, tokenizer) -> Opened:
    entries = check_folder(folder, config.model, key="convert.source")
    tensors = {name: (TORCH[entries[name].dtype], shape) for name, shape in tensor_shapes(config.model).items()}
    source, tags = from_folder(folder), None
    if config.convert.tags:
        if tag_text(0) in tokenizer.get_added_vocab():
            raise UserError(
                f"convert.tags=true, but data.tokenizer={config.data.tokenizer} has tags already, whose rows would be "
                "lost; set convert.tags=false"
            )
        tags = _tags(config, tokenizer)
        source = with_tags(source, tags, config.tags.noise, config.tags.seed)
        add_to_tokenizer(tokenizer, tags)
    identity = _identity(config, fingerprint(folder), tags)
    return Opened(tensors, source, model_config(folder), tokenizer, identity)


def _open_checkpoint(config: Config, folder: Path, tokenizer) -> Opened:
    """A run's checkpoint, whose model has the tags' rows already, or a converted one, which tells (provenance.json)."""
    extra = folder / "extra.json"
    if extra.is_file():
        if problem := record_problem(extra):
            raise UserError(f"convert.source={folder} is damaged: {problem}; copy it again, or take another checkpoint")
        there = json.loads(extra.read_text())["identity"]
        ours = {f"model.{name}": value for name, value in asdict(config.model).items() if name != "base"}
        ours |= {f"tags.{name}": value for name, value in asdict(config.tags).items()}
        for name, value in ours.items():
            if name in there and there[name] != value:
                raise UserError(
                    f"convert.source={folder}: written with {name}={there[name]}, here {name}={value}; give the "
                    "overrides of the run (its config.yaml lists them)"
                )
    checkpoint, record = DistCheckpoint(folder, config.model), folder / RECORD
    tags = None if record.is_file() and not json.loads(record.read_text())["tags"] else _tags(config, tokenizer)
    if tags:
        add_to_tokenizer(tokenizer, tags)
    values = model_config(folder) if (folder / "config.json").is_file() else hf_config(config, tokenizer)
    identity = _identity(config, fingerprint(folder), tags)
    return Opened(checkpoint.tensors, checkpoint.source(), values, tokenizer, identity, checkpoint)


def _tags(config: Config, tokenizer) -> Tags:
    return make_tags(tokenizer, config.tags.spelling, config.tags.count, vocabulary_rows=config.model.vocab_size)


def _identity(config: Config, source: str, tags: Tags | None) -> dict:
    values = {
        "source": source,
        "convert.to": config.convert.to,
        "convert.shard_gb": config.convert.shard_gb,
        "data.tokenizer": config.data.tokenizer,
        "tags": tags and asdict(tags) | {"noise": config.tags.noise, "seed": config.tags.seed},
    }
    return json.loads(json.dumps(values))


# ---------------------------------------------------------------- to


def is_converted(folder: Path, identity: dict) -> bool:
    """Whether the folder is the result of just this conversion; raises UserError where it holds something else."""
    if not folder.exists() or folder.is_dir() and not any(folder.iterdir()):
        return False
    found = _conversion(folder)
    if found != identity:
        what = "is no result of a conversion" if found is None else "was converted from another source or otherwise"
        raise UserError(f"convert.folder={folder} {what}; choose another one, or remove that")
    return True


def _conversion(folder: Path) -> dict | None:
    record = folder / RECORD
    return json.loads(record.read_text()).get("conversion") if record.is_file() else None


def write_folder(folder: Path, config: Config, opened: Opened, tell: Callable[[str], None] = print) -> None:
    """Write a folder aside, file after file, and rename it when whole; what an ended conversion finished is kept.

    At any time one tensor of the result is held (and what the source itself keeps), never a file's.
    """
    aside = folder.with_name(f".{folder.name}.partial")
    if _conversion(aside) != opened.identity:
        shutil.rmtree(aside, ignore_errors=True)
        provenance = {"conversion": opened.identity, "tags": opened.identity["tags"]}
        write_aside(aside / RECORD, json.dumps(provenance, indent=1))
    if config.convert.to == "megatron":
        write_files(aside, config.model, opened.source, tell)
    else:
        _write_shards(aside, plan_shards(opened.tensors, int(config.convert.shard_gb * 1e9)), opened.source, tell)
    (aside / "config.json").write_text(json.dumps(opened.hf_config, indent=1))
    opened.tokenizer.save_pretrained(aside)
    flush_all(aside)
    aside.rename(folder)  # which is not there, or empty (is_converted)
    flush(folder.parent)


def _write_shards(aside: Path, shards: list[Shard], source: Source, tell: Callable[[str], None]) -> None:
    for shard in shards:
        if (aside / shard.file).is_file():
            tell(f"{shard.file} is there already")
            continue
        _write_shard(aside, shard, source)
        tell(f"{shard.file}  {shard.size / 1e9:.2f} GB")
    write_index(aside, shards)


def _write_shard(aside: Path, shard: Shard, source: Source) -> None:
    partial = aside / f".{shard.file}.partial"
    lay_out(partial, shard)
    for name, place in shard.places.items():
        put(partial, name, place, source(name))
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(aside / shard.file)


def verify(folder: Path, config: Config, opened: Opened) -> None:
    """Read every tensor of a written folder again and compare its bits with the source's, two tensors at a time.

    Raises:
        UserError: naming the tensor that differs, with its shape and how many of its numbers do.
    """
    if config.convert.to == "megatron":
        written = DistCheckpoint(folder, config.model, key="convert.folder").source()
    else:
        check_folder(folder, config.model, key="convert.folder")
        written = from_folder(folder)
    for name, (dtype, shape) in opened.tensors.items():
        ours, theirs = written(name), opened.source(name)
        if ours.dtype != dtype or not torch.equal(_bits(ours), _bits(theirs)):
            differing = int((_bits(ours) != _bits(theirs)).any(-1).sum()) if ours.dtype == dtype else ours.numel()
            raise UserError(
                f"convert.folder={folder}: tensor {name}, {dtype} of shape {shape}: {differing:,} of {ours.numel():,} "
                f"numbers ({ours.dtype}) are not the source's; remove the folder and convert again"
            )


def compare_logits(folder: Path, config: Config, opened: Opened) -> Difference:
    """Compare logits of a written folder with the source's, one of them by transformers. In a process of its own.

    Raises:
        UserError: naming the first layer that computes otherwise.
    """
    prepare_megatron()
    ids_BT = sample(len(opened.tokenizer), config.model.max_length)
    written = DistCheckpoint(folder, config.model, key="convert.folder") if config.convert.to == "megatron" else None
    if written:
        found = megatron_outputs(config, written, ids_BT)
    else:
        found = transformers_outputs(model_config(folder), from_folder(folder), ids_BT)
    if opened.checkpoint and not written:
        expected = megatron_outputs(config, opened.checkpoint, ids_BT)
    else:
        expected = transformers_outputs(opened.hf_config, opened.source, ids_BT)
    return compare(expected, found, f"convert.folder={folder}")


def _bits(tensor: Tensor) -> Tensor:
    """The bytes of every number: [numbers, bytes of one]."""
    return tensor.contiguous().view(torch.uint8).view(tensor.numel(), -1)
