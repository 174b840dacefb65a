"""Weights converted in one process, bit for bit: runs' checkpoints, Megatron checkpoints, Hugging Face folders."""

import itertools
import json
import math
import os
import pickle
import re
import resource
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from megatron.core import dist_checkpointing
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, Qwen2ForCausalLM

from benchmarks.meter import peak_bytes
from nemo_forking.config import Config
from nemo_forking.config.convert import ConvertConfig
from nemo_forking.convert import convert as module
from nemo_forking.convert.convert import convert
from nemo_forking.errors import UserError
from nemo_forking.files import alone
from nemo_forking.model import dist_writer
from nemo_forking.model.hf_folder import EMBEDDING, HEAD, tensor_shapes
from nemo_forking.tags import initial_rows, make_tags
from nemo_forking.training import trainer
from nemo_forking.training.checkpoint import unwrapped
from nemo_forking.weight_files import tensor_entries
from tests.distributed.runs import VOCABULARY, Ground, in_fork, run, tiny
from tests.run_files import weights
from tests.unit.shapes import qwen2_config

FOUR = {"layout.devices": 4, "layout.tensor": 2, "layout.pipeline": 2}
FILE = 2e-5  # GB: several files for the tiny model


def asked(config: Config, source: Path, folder: Path, **changes) -> Config:
    """The run's configuration, with a conversion."""
    values = {"to": "huggingface", "tags": False, "shard_gb": FILE, "verify": True} | changes
    return replace(config, convert=ConvertConfig(source=str(source), folder=str(folder), **values))


def quietly(config: Config) -> list[str]:
    """Convert; the lines that were told."""
    lines: list[str] = []
    convert(config, lines.append)
    return lines


def agreeing(line: str) -> float:
    """The largest difference of log-probabilities that the last line tells."""
    return float(re.search(r"logits of 128 tokens differ from .* log-probabilities by (\S+)$", line)[1])


def base_of(ground: Ground, tied: bool) -> Path:
    return ground.tied_base if tied else ground.base


def from_base(ground: Ground, folder: Path, tied: bool = False, **changes) -> Config:
    """A conversion of the base model into `folder`."""
    base = base_of(ground, tied)
    config = tiny(ground, folder.parent, {"model.tie_embeddings": tied, "model.base": str(base)})
    return asked(config, base, folder, **changes)


# ---------------------------------------------------------------- what is written


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_a_runs_checkpoint_becomes_what_the_run_exports(tied, ground, tmp_path):
    base = {"model.base": str(base_of(ground, tied)), "model.tie_embeddings": tied}
    config = tiny(ground, tmp_path / "run", FOUR | base | {"trainer.max_steps": 1})
    run(config)
    step = tmp_path / "run" / "checkpoints" / "step_0000001"
    lines = in_fork(quietly, asked(config, step, tmp_path / "got", verify_logits=True))
    assert agreeing(lines[-1]) <= 1e-4  # Megatron's layers on one side, transformers' on the other
    got, exported = weights(tmp_path / "got"), weights(tmp_path / "run" / "model")
    assert len(list((tmp_path / "got").glob("*.safetensors"))) > 4
    assert got.keys() == exported.keys() and (HEAD in got) == (not tied)
    for name, tensor in exported.items():
        assert torch.equal(got[name], tensor), name
    for file in ("config.json", "tokenizer.json"):
        assert (tmp_path / "got" / file).read_bytes() == (tmp_path / "run" / "model" / file).read_bytes()
    check_refusals_of_checkpoints(config, step, tmp_path)


def check_refusals_of_checkpoints(config: Config, step: Path, folder: Path) -> None:
    """Another model, and damaged files; one run serves all of them."""
    other = replace(config, model=replace(config.model, ffn_hidden_size=52))
    with pytest.raises(UserError, match="written with model.ffn_hidden_size=48, here model.ffn_hidden_size=52"):
        convert(asked(other, step, folder / "other"))
    copy = folder / "copy"
    shutil.copytree(step, copy)
    extra = (copy / "extra.json").read_text()
    for damaged in (extra[:-9], extra.replace('"tags.count": 4', '"tags.count": 6')):
        (copy / "extra.json").write_text(damaged)
        with pytest.raises(UserError, match=f"^convert.source={copy} is damaged: extra.json .*checksums.json.*copy"):
            convert(asked(config, copy, folder / "other"))
    (copy / "extra.json").unlink()  # as from another Megatron program
    shapes = "tensor decoder.layers.mlp.linear_fc1.weight: expected shape (4, 104, 32), found (4, 96, 32)"
    with pytest.raises(UserError, match=re.escape(shapes)):
        convert(asked(other, copy, folder / "other"))
    for file in copy.glob("*.distcp"):
        file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(UserError, match=r"tensor \S+, piece of shape \(.*\) at \(.*\): __\d_\d.distcp is cut off"):
        convert(asked(config, copy, folder / "other"))
    assert not (folder / "other").exists()


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_folder_is_dealt_to_files_anew_without_a_bit_changed(tied, dtype, ground, tmp_path):
    source = tmp_path / "source"
    Qwen2ForCausalLM.from_pretrained(base_of(ground, tied), dtype=dtype).save_pretrained(source, max_shard_size="30KB")
    lines = quietly(asked(from_base(ground, tmp_path / "got", tied), source, tmp_path / "got"))
    before, after = weights(source), weights(tmp_path / "got")
    assert before.keys() == after.keys()
    assert all(after[name].dtype == dtype and torch.equal(after[name], before[name]) for name in before)
    assert lines[-1].endswith(f"all {len(before)} tensors are the source's, bit for bit")
    assert (tmp_path / "got" / "config.json").read_text() == json.dumps(
        json.loads((source / "config.json").read_text()), indent=1
    )


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_folder_comes_back_from_a_megatron_checkpoint_without_a_bit_changed(tied, dtype, ground, tmp_path):
    source, middle = tmp_path / "source", tmp_path / "megatron"
    Qwen2ForCausalLM.from_pretrained(base_of(ground, tied), dtype=dtype).save_pretrained(source)
    there = asked(from_base(ground, middle, tied), source, middle, to="megatron", verify_logits=True)
    assert agreeing(quietly(there)[-1]) <= 1e-4
    in_fork(quietly, asked(there, middle, tmp_path / "got"))
    before, after = weights(source), weights(tmp_path / "got")
    assert before.keys() == after.keys()
    assert all(after[name].dtype == dtype and torch.equal(after[name], before[name]) for name in before)
    for file in ("config.json", "tokenizer.json"):
        assert (tmp_path / "got" / file).read_bytes() == (middle / file).read_bytes()


@pytest.mark.parametrize("layout", ["tensor and pipeline", "interleaved"])
def test_megatron_loads_a_converted_checkpoint_under_any_layout(layout, ground, tmp_path, monkeypatch):
    quietly(from_base(ground, tmp_path / "megatron", to="megatron"))
    export = trainer.export

    def export_loaded(config, model, *rest) -> None:
        chunks = {f"model_{number}": unwrapped(chunk) for number, chunk in enumerate(model)}
        for parameter in (p for chunk in chunks.values() for p in chunk.parameters()):
            parameter.data.zero_()
        wanted = {name: chunk.sharded_state_dict() for name, chunk in chunks.items()}
        state = dist_checkpointing.load(wanted, str(tmp_path / "megatron"))
        for name, chunk in chunks.items():
            chunk.load_state_dict(state[name], strict=True)
        export(config, model, *rest)

    monkeypatch.setattr(trainer, "export", export_loaded)
    interleaved = {"layout.devices": 2, "layout.pipeline": 2, "layout.virtual_pipeline": 2}
    run(tiny(ground, tmp_path / "run", FOUR if layout != "interleaved" else interleaved))
    base, got = weights(ground.base), weights(tmp_path / "run" / "model")
    assert base.keys() == got.keys() and all(torch.equal(got[name], tensor) for name, tensor in base.items())


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_tags_get_their_rows_and_nothing_else_changes(tied, ground, tmp_path):
    quietly(from_base(ground, tmp_path / "got", tied, tags=True))
    expected, got = weights(base_of(ground, tied)), weights(tmp_path / "got")
    tags = make_tags(AutoTokenizer.from_pretrained(ground.tokenizer), "special", 4, vocabulary_rows=VOCABULARY)
    for name in (EMBEDDING,) if tied else (EMBEDDING, HEAD):
        expected[name][list(tags.fork_ids)] = initial_rows(tags, expected[name], None, noise=0.5, seed=0)
    assert got.keys() == expected.keys()
    assert all(torch.equal(got[name], tensor) for name, tensor in expected.items())
    assert AutoTokenizer.from_pretrained(tmp_path / "got")("<think4>")["input_ids"] == [101]


def test_transformers_computes_the_same_logits(ground, tmp_path):
    quietly(from_base(ground, tmp_path / "got"))
    ids = torch.arange(95)[None]
    with torch.no_grad():
        before, after = (
            Qwen2ForCausalLM.from_pretrained(folder, dtype=torch.float32)(ids).logits
            for folder in (ground.base, tmp_path / "got")
        )
    assert torch.equal(before, after)


@pytest.mark.parametrize("to", ["huggingface", "megatron"])
def test_at_most_the_largest_tensor_twice_is_in_memory(to, ground, tmp_path):
    config = from_base(ground, tmp_path / "got", tags=True, verify=False, to=to)
    peak, _ = peak_bytes(lambda: quietly(config), torch.device("cpu"))
    assert 0 < peak <= 2 * 4 * VOCABULARY * config.model.hidden_size + 4096  # the embedding, before and after its tags


@pytest.mark.parametrize("to", ["huggingface", "megatron"])
def test_at_most_two_layers_are_in_memory(to, ground, tmp_path):
    shape = {"num_layers": 16, "hidden_size": 256, "ffn_hidden_size": 1024, "num_attention_heads": 4, "base": None}
    config = tiny(ground, tmp_path / "run", {f"model.{key}": value for key, value in shape.items()})
    sizes = {name: 4 * math.prod(size) for name, size in tensor_shapes(config.model).items()}
    layer, source = sum(size for name, size in sizes.items() if ".layers.0." in name), tmp_path / "source"
    in_fork(write_random, config.model, source)
    changes = {"verify": False, "shard_gb": 2 * layer / 1e9}
    if to == "huggingface":  # from a Megatron checkpoint
        quietly(asked(config, source, tmp_path / "megatron", to="megatron", **changes))
        source = tmp_path / "megatron"
    conversions = [asked(config, source, tmp_path / name, to=to, **changes) for name in "abc"]
    (tmp_path / "conversions").write_bytes(pickle.dumps(conversions))
    command = [sys.executable, "-m", "tests.distributed.growth", str(tmp_path / "conversions")]
    grown = int(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    assert 0 < grown <= 2 * layer < sum(sizes.values()) / 7


def write_random(model, folder: Path) -> None:
    Qwen2ForCausalLM(qwen2_config(model)).save_pretrained(folder)


# ---------------------------------------------------------------- ended and started again


def test_a_conversion_that_was_ended_keeps_its_finished_files(ground, tmp_path, monkeypatch):
    config, put, calls = from_base(ground, tmp_path / "got"), module.put, []

    def die(*args) -> None:
        calls.append(args)
        if len(calls) == 20:
            raise KeyboardInterrupt
        put(*args)

    monkeypatch.setattr(module, "put", die)
    with pytest.raises(KeyboardInterrupt):
        convert(config, print)
    aside = tmp_path / ".got.partial"
    kept = {file.name: file.stat().st_mtime_ns for file in aside.glob("model-*")}
    assert kept and not (tmp_path / "got").exists()
    monkeypatch.setattr(module, "put", put)
    lines = quietly(config)
    assert [line for line in lines if "already" in line] == [f"{name} is there already" for name in sorted(kept)]
    after = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "got").glob("model-*")}
    assert after.items() > kept.items() and not aside.exists()
    assert not [file for file in (tmp_path / "got").iterdir() if "partial" in file.name]
    assert quietly(config)[0].endswith("is there already")


def test_a_checkpoint_that_was_ended_keeps_its_finished_layers(ground, tmp_path, monkeypatch):
    config, write, calls = from_base(ground, tmp_path / "got", to="megatron"), dist_writer._write_file, []

    def die(*args):
        calls.append(args)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return write(*args)

    monkeypatch.setattr(dist_writer, "_write_file", die)
    with pytest.raises(KeyboardInterrupt):
        convert(config, print)
    assert not (tmp_path / "got").exists()
    monkeypatch.undo()
    lines = quietly(config)  # which compares every tensor, too
    assert [line for line in lines if "already" in line] == [f"__{n}_0.distcp is there already" for n in range(3)]
    assert not list((tmp_path / "got").glob(".*.places"))


@pytest.mark.parametrize("to", ["huggingface", "megatron"])
def test_a_conversion_that_was_ended_at_its_last_moment_writes_nothing_again(to, ground, tmp_path, monkeypatch):
    config = from_base(ground, tmp_path / "got", to=to)
    monkeypatch.setattr(Path, "rename", lambda *_: sys.exit(1))
    with pytest.raises(SystemExit):
        convert(config, print)
    monkeypatch.undo()
    files = [f for kind in ("*.safetensors", "*.distcp") for f in (tmp_path / ".got.partial").glob(kind)]
    kept = {file.name: file.stat().st_mtime_ns for file in files}
    quietly(config)
    assert kept and all((tmp_path / "got" / name).stat().st_mtime_ns == at for name, at in kept.items())


def test_a_full_disk_is_told_and_the_conversion_goes_on(ground, tmp_path):
    config = from_base(ground, tmp_path / "got")
    with pytest.raises(UserError, match=r"cannot be written \(File too large\).*start the same command again"):
        in_fork(on_little_room, config)
    assert quietly(config)[-1].endswith("bit for bit")


def on_little_room(config: Config) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
    quietly(config)


def test_files_of_another_source_are_not_kept(ground, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "write_index", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        convert(from_base(ground, tmp_path / "got"), print)
    monkeypatch.undo()
    lines = quietly(from_base(ground, tmp_path / "got", tags=True))  # the same files, with other rows
    assert not [line for line in lines if "already" in line]


# ---------------------------------------------------------------- what is refused


def test_a_damaged_source_is_refused_before_anything_is_written(ground, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(ground.base, source)
    entry = tensor_entries(source)["model.layers.3.mlp.up_proj.weight"]
    entry.file.write_bytes(entry.file.read_bytes()[: entry.end - 1])
    config = asked(from_base(ground, tmp_path / "got"), source, tmp_path / "got")
    with pytest.raises(UserError, match=f"convert.source={source}.*not a whole safetensors file"):
        convert(config)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


def test_dtypes_that_one_megatron_tensor_cannot_have_are_refused(ground, tmp_path):
    source = Path(shutil.copytree(ground.base, tmp_path / "source"))
    state, name = weights(source), "model.layers.1.self_attn.k_proj.weight"
    save_file(state | {name: state[name].bfloat16()}, source / "model.safetensors", metadata={"format": "pt"})
    config = asked(from_base(ground, tmp_path / "got"), source, tmp_path / "got", to="megatron")
    with pytest.raises(UserError, match=f"tensor {name}: expected torch.float32, as .*q_proj.weight is, found torch.b"):
        convert(config)
    quietly(replace(config, convert=replace(config.convert, to="huggingface")))


def test_a_written_tensor_that_differs_is_named(ground, tmp_path):
    config = from_base(ground, tmp_path / "got")
    quietly(config)
    entry = tensor_entries(tmp_path / "got")["model.layers.2.self_attn.k_proj.bias"]
    data = bytearray(entry.file.read_bytes())
    data[entry.start] ^= 1
    entry.file.write_bytes(data)
    with pytest.raises(
        UserError, match=r"tensor model.layers.2.self_attn.k_proj.bias, torch.float32 of shape \(16,\): 1 of"
    ):
        convert(config)


@pytest.mark.parametrize("to", ["huggingface", "megatron"])
def test_a_layer_that_computes_otherwise_is_named(to, ground, tmp_path, monkeypatch):
    config = from_base(ground, tmp_path / "got", to=to, verify=False, verify_logits=True)
    if to == "megatron":  # heads in another order, in one layer; the same numbers
        fuse = dist_writer.fuse

        def fuse_otherwise(model, name, parts):
            whole, turn = fuse(model, name, parts), name.endswith("linear_proj.weight") and next(layer) == 2
            return whole.roll(8, 1) if turn else whole

        layer = itertools.count()
        monkeypatch.setattr(dist_writer, "fuse", fuse_otherwise)
        quietly(replace(config, convert=replace(config.convert, verify_logits=False)))
    else:  # a config.json of another model
        quietly(replace(config, convert=replace(config.convert, verify_logits=False)))
        file = tmp_path / "got" / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"rms_norm_eps": 0.1}))
    which = 2 if to == "megatron" else 0
    with pytest.raises(UserError, match=rf"model.layers.{which} computes otherwise than transformers: what leaves it"):
        convert(config)


def test_two_conversions_into_one_folder_are_refused(ground, tmp_path):
    config = from_base(ground, tmp_path / "got")
    with (
        alone(tmp_path / ".got.lock", "tests"),
        pytest.raises(
            UserError, match=rf"process {os.getpid()} on \S+ converts into convert.folder=\S+got at this mom"
        ),
    ):
        convert(config)
    assert not (tmp_path / "got").exists()
    convert(config, print)
    assert not (tmp_path / ".got.lock").exists()


def test_a_folder_that_holds_something_else_is_left_as_it_is(ground, tmp_path):
    config = from_base(ground, tmp_path / "got")
    (tmp_path / "got").mkdir()
    (tmp_path / "got" / "note").write_text("mine")
    with pytest.raises(UserError, match="is no result of a conversion; choose another one"):
        convert(config)
    assert (tmp_path / "got" / "note").read_text() == "mine"
    quietly(from_base(ground, tmp_path / "other"))
    with pytest.raises(UserError, match="was converted from another source or otherwise"):
        convert(from_base(ground, tmp_path / "other", tags=True))


def test_tags_are_not_written_over_trained_ones(ground, tmp_path):
    quietly(from_base(ground, tmp_path / "tagged", tags=True))
    config = asked(from_base(ground, tmp_path / "got"), tmp_path / "tagged", tmp_path / "got", tags=True)
    config = replace(config, data=replace(config.data, tokenizer=str(tmp_path / "tagged")))
    with pytest.raises(UserError, match="has tags already, whose rows would be lost; set convert.tags=false"):
        convert(config)
    with pytest.raises(UserError, match="convert.source is not set"):
        convert(replace(config, convert=replace(config.convert, source=None)))


def test_every_file_is_one_that_safetensors_reads(ground, tmp_path):
    quietly(from_base(ground, tmp_path / "got"))
    for file in (tmp_path / "got").glob("*.safetensors"):
        assert all(tensor.isfinite().all() for tensor in load_file(file).values())
        assert file.stat().st_size <= FILE * 1e9 + 4096
