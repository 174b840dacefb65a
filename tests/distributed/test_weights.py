"""Weights in and out: Hugging Face -> Megatron -> Hugging Face without a bit changed, whatever the layout."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, Qwen2ForCausalLM

from benchmarks.meter import peak_bytes
from nemo_forking.config import Config
from nemo_forking.config.convert import ConvertConfig
from nemo_forking.convert.convert import convert
from nemo_forking.model.base import check_base
from nemo_forking.model.hf_folder import check_folder
from nemo_forking.tags import initial_rows, make_tags
from nemo_forking.training import trainer
from tests.distributed.runs import (
    MODEL,
    VOCABULARY,
    Ground,
    errors,
    in_fork,
    left_behind,
    run,
    tiny,
    write_base,
)
from tests.run_files import assert_same_weights, weights

STILL = {"optim.lr": 1e-30, "optim.min_lr": 1e-30, "optim.eps": 1.0, "matching.rule": "random"}
LAYOUTS = {
    "one": {},
    "tensor": {"layout.devices": 2, "layout.tensor": 2},
    "pipeline": {"layout.devices": 2, "layout.pipeline": 2},
    "interleaved": {"layout.devices": 2, "layout.pipeline": 2, "layout.virtual_pipeline": 2},
    "four": {"layout.devices": 4, "layout.tensor": 2, "layout.pipeline": 2},
}
NAMES = ("folder", "checkpoint")
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def still(ground: Ground, folder: Path, tied: bool, changes: dict) -> Config:
    """A run of one step that moves no weight: float32 cannot hold a change of 1e-30."""
    base = {"model.base": str(ground.tied_base if tied else ground.base), "model.tie_embeddings": tied}
    return tiny(ground, folder, STILL | base | changes)


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_export_gives_the_base_back_bit_for_bit_with_the_tags_rows(layout, tied, ground, tmp_path):
    config = still(ground, tmp_path / "run", tied, LAYOUTS[layout])
    run(config)
    base, got = weights(Path(config.model.base)), weights(tmp_path / "run" / "model")
    assert set(got) == set(base)
    assert (HEAD in got) == (not tied)
    tags = make_tags(AutoTokenizer.from_pretrained(ground.tokenizer), "special", 4, vocabulary_rows=VOCABULARY)
    for name in (EMBEDDING,) if tied else (EMBEDDING, HEAD):
        base[name][[ids[0] for ids in tags.ids_NK]] = initial_rows(tags, base[name], None, noise=0.5, seed=0)
    for name, tensor in base.items():
        assert torch.equal(got[name], tensor), name


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_transformers_computes_the_bases_logits_from_the_export(tied, ground, tmp_path):
    config = still(ground, tmp_path / "run", tied, LAYOUTS["four"])
    run(config)
    ids = torch.arange(95)[None]  # no tag among them
    base, got = (in_fork(logits, folder, ids) for folder in (config.model.base, tmp_path / "run" / "model"))
    np.testing.assert_array_equal(got[..., :98], base[..., :98])  # rows 98 to 101 are the tags'
    np.testing.assert_array_equal(got[..., 102:], base[..., 102:])


def logits(folder: Path, ids: torch.Tensor) -> np.ndarray:
    with torch.no_grad():
        return Qwen2ForCausalLM.from_pretrained(folder, dtype=torch.float32)(ids).logits.numpy()


def test_the_exported_tokenizer_knows_the_tags(ground, tmp_path):
    run(still(ground, tmp_path / "run", False, {}))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run" / "model")
    assert tokenizer("a<think1><think4>")["input_ids"] == [ord("a") - 31, 98, 101]
    assert "<|im_start|>" in tokenizer.additional_special_tokens


def test_several_safetensors_files_are_read_by_their_index(ground, tmp_path, monkeypatch):
    monkeypatch.setattr("nemo_forking.model.weights.SHARD_BYTES", 20_000)
    one = still(ground, tmp_path / "one", False, LAYOUTS["pipeline"])
    run(one)
    assert len(list((tmp_path / "one" / "model").glob("*.safetensors"))) > 2
    two = still(ground, tmp_path / "two", False, {"model.base": str(tmp_path / "one" / "model")})
    run(two)
    first, second = weights(tmp_path / "one" / "model"), weights(tmp_path / "two" / "model")
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_files_are_the_same_under_every_layout_though_several_ranks_write_one(ground, tmp_path, monkeypatch):
    monkeypatch.setattr("nemo_forking.model.weights.SHARD_BYTES", 20_000)
    files = {}
    for name in ("one", "interleaved", "four"):
        run(still(ground, tmp_path / name, False, LAYOUTS[name]))
        files[name] = {f.name: f.read_bytes() for f in (tmp_path / name / "model").iterdir() if "safetensors" in f.name}
    assert len(files["one"]) > 4 and files["interleaved"] == files["one"] and files["four"] == files["one"]
    check_folder(tmp_path / "four" / "model", still(ground, tmp_path / "four", False, {}).model)


@pytest.mark.parametrize(("layout", "tied"), [("four", False), ("interleaved", True)], ids=str)
def test_a_run_from_a_megatron_checkpoint_is_the_one_from_the_folder(layout, tied, ground, tmp_path):
    base = ground.tied_base if tied else ground.base
    shape = {"model.base": str(base), "model.tie_embeddings": tied}
    folder = tiny(ground, tmp_path / "folder", LAYOUTS[layout] | shape)
    asked = ConvertConfig(str(base), "megatron", str(tmp_path / "megatron"), tags=False, shard_gb=1.0, verify=False)
    convert(replace(folder, convert=asked), tell=lambda line: None)
    base = {"model.base": str(tmp_path / "megatron")}
    checkpoint = tiny(ground, tmp_path / "checkpoint", LAYOUTS[layout] | shape | base)
    check_base(checkpoint.model.base, checkpoint.model)
    for expected, found in zip(run(folder), run(checkpoint), strict=True):
        assert [(s.loss, s.grad_norm) for s in found] == [(s.loss, s.grad_norm) for s in expected]
    assert_same_weights(tmp_path / "checkpoint" / "model", tmp_path / "folder" / "model")
    identities = [json.loads((tmp_path / name / "model" / "provenance.json").read_text())["identity"] for name in NAMES]
    assert identities[0]["model.base"] != identities[1]["model.base"]  # a run is continued from its own base


def test_an_export_holds_one_tensor_at_a_time(ground, tmp_path, monkeypatch):
    export, sizes = trainer.weights.export, tmp_path / "peak"

    def watched(*args, **kwargs) -> None:
        sizes.write_text(str(peak_bytes(lambda: export(*args, **kwargs), torch.device("cpu"))[0]))

    monkeypatch.setattr(trainer.weights, "export", watched)
    run(still(ground, tmp_path / "run", False, LAYOUTS["one"]))
    # the largest is the query, key and value weight, cut into three; the whole model has 209,536 bytes
    qkv = 4 * (MODEL["hidden_size"] + 2 * MODEL["hidden_size"] // 2) * MODEL["hidden_size"]
    assert 0 < int(sizes.read_text()) <= 2 * qkv


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_random_weights_are_the_same_under_every_layout(tied, ground, tmp_path):
    random = STILL | {"model.base": None, "model.tie_embeddings": tied, "matching.rule": "optimal"}
    seen, steps = {}, {}
    for name in ("one", "tensor", "pipeline"):
        steps[name] = run(tiny(ground, tmp_path / name, random | LAYOUTS[name]))[0][0]
        seen[name] = weights(tmp_path / name / "model")
    norms = [tensor for name, tensor in seen["one"].items() if "norm" in name]
    assert all((norm == 1).all() for norm in norms) and abs(seen["one"][EMBEDDING].std() - MODEL["init_std"]) < 0.01
    for name in ("tensor", "pipeline"):
        assert seen[name].keys() == seen["one"].keys()
        for key, tensor in seen["one"].items():
            torch.testing.assert_close(seen[name][key], tensor, rtol=0, atol=1e-20)  # biases started from zero
        np.testing.assert_allclose(steps[name].loss, steps["one"].loss, rtol=1e-5)
        np.testing.assert_allclose(steps[name].cost_QNM, steps["one"].cost_QNM, rtol=1e-5)


# ---------------------------------------------------------------- bases that cannot be used


def drop(name: str):
    return lambda state: state.pop(name)


def cut(name: str):
    def change(state: dict) -> None:
        state[name] = state[name][:-2].clone()

    return change


NORM, UP = "model.layers.3.input_layernorm.weight", "model.layers.0.mlp.up_proj.weight"
SPOILED = {  # -> how, and what the message says
    "missing tensor": (drop(NORM), f"tensor {NORM} is not in the checkpoint; is it a Qwen2 model?"),
    "missing bias": (
        drop("model.layers.0.self_attn.k_proj.bias"),
        "tensor model.layers.0.self_attn.k_proj.bias is not in the checkpoint",
    ),
    "wrong shape": (
        cut(UP),
        f"{UP}: the checkpoint has shape (46, 32), the configuration asks for (48, 32); set the model group",
    ),
}


@pytest.mark.parametrize("name", SPOILED)
def test_a_spoiled_base_ends_the_run_and_names_the_tensor(name, ground, tmp_path):
    change, message = SPOILED[name]
    base = write_base(tmp_path / "base", tied=False, change=change)
    config = still(ground, tmp_path / "run", False, LAYOUTS["pipeline"] | {"model.base": str(base)})
    with pytest.raises(ValueError) as caught:  # one stage alone meets the tensor; the other must not wait for it
        run(config)
    assert type(caught.value).__name__ == "UserError" and message in str(caught.value)
    assert not (tmp_path / "run").exists() or left_behind(config) == []


def test_a_base_folder_without_weights_is_refused_on_every_rank(ground, tmp_path):
    config = still(ground, tmp_path / "run", False, LAYOUTS["tensor"] | {"model.base": str(tmp_path / "nowhere")})
    for kind, message in errors(config):
        assert kind == "UserError"
        assert "nowhere: no *.safetensors there; export the weights" in message
    assert not (tmp_path / "run").exists()


def test_what_a_killed_export_left_is_cleared(ground, tmp_path):
    config = still(ground, tmp_path / "run", False, {})
    run(config)
    before = weights(tmp_path / "run" / "model")
    leftover = tmp_path / "run" / ".model.partial"  # of a killed export
    leftover.mkdir()
    (leftover / "model-00007-of-00009.safetensors").write_bytes(b"half")
    run(config)
    assert not leftover.exists()
    assert sorted(p.name for p in (tmp_path / "run" / "model").glob("*.safetensors")) == [
        "model-00001-of-00001.safetensors"
    ]
    assert all(torch.equal(weights(tmp_path / "run" / "model")[name], tensor) for name, tensor in before.items())
