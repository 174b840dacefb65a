"""Model folders told by the headers of their safetensors files: whole ones pass, every damage is named."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file
from transformers import Qwen2ForCausalLM

from nemo_forking.config.compose import CONF
from nemo_forking.errors import UserError
from nemo_forking.model.hf_folder import HEAD, check_folder, tensor_shapes
from nemo_forking.weight_files import read_header, tensor_entries
from tests.unit.shapes import Shape, qwen2_config


def written(folder: Path, shape: Shape, shard: str = "5GB") -> Path:
    """A folder as transformers writes it."""
    Qwen2ForCausalLM(qwen2_config(shape)).save_pretrained(folder, max_shard_size=shard)
    return folder


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("shard", ["5GB", "4KB"], ids=["one file", "several files"])
def test_what_transformers_writes_is_just_what_is_expected(tied, shard, tmp_path):
    shape = Shape(tie_embeddings=tied)
    entries = check_folder(written(tmp_path / "m", shape, shard), shape)
    assert {name: entry.shape for name, entry in entries.items()} == tensor_shapes(shape)
    assert (len({entry.file for entry in entries.values()}) > 1) == (shard == "4KB")


def test_an_entry_is_where_the_tensor_lies(tmp_path):
    tensors = {"b": torch.arange(6, dtype=torch.float32).view(2, 3), "a": torch.ones(4, dtype=torch.bfloat16)}
    save_file(tensors, tmp_path / "x.safetensors", metadata={"format": "pt"})
    entries = read_header(tmp_path / "x.safetensors")
    data = (tmp_path / "x.safetensors").read_bytes()
    assert set(entries) == set(tensors)
    for name, entry in entries.items():
        assert data[entry.start : entry.end] == tensors[name].view(torch.uint8).numpy().tobytes()


PARAMETERS = {  # billions, of the published models; a tied head counts once
    "qwen25_0p5b": 0.494,
    "qwen25_1p5b": 1.544,
    "qwen25_3b": 3.086,
    "qwen25_7b": 7.616,
    "qwen25_14b": 14.770,
    "qwen25_32b": 32.764,
    "qwen25_72b": 72.706,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_published_models_have_as_many_parameters(name):
    model = OmegaConf.load(CONF / "model" / f"{name}.yaml")
    count = sum(math.prod(shape) for shape in tensor_shapes(model).values())
    assert count / 1e9 == pytest.approx(PARAMETERS[name], abs=6e-4)


def test_a_tied_model_may_bring_its_head(tmp_path):
    shape = Shape(tie_embeddings=True)
    folder = written(tmp_path / "m", shape)
    state = load_file(folder / "model.safetensors")
    save_file(state | {HEAD: state["model.embed_tokens.weight"].clone()}, folder / "model.safetensors")
    check_folder(folder, shape)


# ---------------------------------------------------------------- what is refused

UP = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture
def folder(tmp_path) -> Path:
    return written(tmp_path / "m", Shape(), "4KB")


def refused(folder: Path, shape: Shape | None = None) -> str:
    with pytest.raises(UserError) as caught:
        check_folder(folder, shape or Shape())
    assert str(caught.value).startswith(f"model.base={folder}")
    return str(caught.value)


def change(folder: Path, name: str, tensor: torch.Tensor | None) -> None:
    """Put another tensor in a tensor's place, or take it out of file and index alike."""
    file = tensor_entries(folder)[name].file
    state = load_file(file)
    del state[name]
    save_file(state | ({} if tensor is None else {name: tensor}), file)
    if tensor is None:
        index = json.loads((folder / "model.safetensors.index.json").read_text())
        del index["weight_map"][name]
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_a_wrong_shape_is_named_with_the_expected_and_the_found_one(folder):
    change(folder, UP, torch.zeros(22, 16))
    assert f"tensor {UP}: expected shape (24, 16), found (22, 16)" in refused(folder)


def test_a_missing_tensor_is_named_with_its_shape(folder):
    change(folder, "model.layers.0.self_attn.k_proj.bias", None)
    message = refused(folder)
    assert "tensor model.layers.0.self_attn.k_proj.bias: expected shape (8,), it is not in the checkpoint" in message


def test_a_missing_head_is_a_tied_model(folder):
    change(folder, HEAD, None)
    assert f"tensor {HEAD}: expected shape (40, 16), it is not in the checkpoint" in refused(folder)
    check_folder(folder, replace(Shape(), tie_embeddings=True))


def test_more_layers_than_configured_are_refused(folder):
    message = refused(folder, replace(Shape(), num_layers=1))
    assert f"tensor {UP}: found shape (24, 16), the configured model has no such tensor" in message
    assert "  and 4 more\n" in message and "set the model group" in message


def test_integers_are_no_weights(folder):
    change(folder, UP, torch.zeros(24, 16, dtype=torch.int8))
    assert f"tensor {UP}: expected floating-point numbers, found I8" in refused(folder)


@pytest.mark.parametrize("kept", [0.9, 0.5, 0.0])
def test_a_file_cut_off_anywhere_is_named(kept, folder):
    file = tensor_entries(folder)[UP].file
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * kept)])
    assert f"{file}: not a whole safetensors file" in refused(folder)


def test_a_cut_inside_a_tensor_names_the_tensor_and_its_shape(folder):
    entry = tensor_entries(folder)[UP]
    entry.file.write_bytes(entry.file.read_bytes()[: entry.end - 1])
    assert f"cut off inside tensor {UP} of shape (24, 16), which ends at byte {entry.end:,}" in refused(folder)


def test_bytes_behind_the_last_tensor_are_refused(folder):
    file = tensor_entries(folder)[UP].file
    with file.open("ab") as stream:
        stream.write(b"x")
    assert "its header tells of" in refused(folder)


def test_a_header_whose_sizes_do_not_fit_its_shapes_names_the_tensor(folder):
    file = tensor_entries(folder)[UP].file
    data = file.read_bytes()
    file.write_bytes(data.replace(b'"shape":[24,16]', b'"shape":[24,15]', 1))
    assert "of shape (24, 15), is said to lie in bytes" in refused(folder)


def test_a_file_of_another_kind_is_refused(folder):
    file = tensor_entries(folder)[UP].file
    file.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")  # a pointer in the file's place
    assert f"{file}: not a whole safetensors file" in refused(folder)
    file.write_bytes((4).to_bytes(8, "little") + b"nojs")
    assert "its header is not readable" in refused(folder)


@pytest.mark.parametrize("length", [2**63, 10**12, 10**6, 3])
def test_a_header_of_absurd_length_is_refused_without_being_read(length, folder):
    file = tensor_entries(folder)[UP].file
    data = file.read_bytes()
    file.write_bytes(length.to_bytes(8, "little") + data[8:])
    message = refused(folder)
    assert f"{file}: not a whole safetensors file" in message
    assert f"its header would end at byte {length + 8:,}" in message or length == 3 and "is not readable" in message


@pytest.mark.parametrize(
    "row",
    [
        {"dtype": "F32", "shape": "ab", "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [2], "data_offsets": [0]},
        {"dtype": "F32", "shape": [2], "data_offsets": None},
        {"shape": [2], "data_offsets": [0, 8]},
        [1, 2],
    ],
    ids=["shape", "one offset", "no offsets", "no dtype", "a list"],
)
def test_a_header_that_says_no_place_is_refused(row, tmp_path):
    text = json.dumps({"w": row}).encode()
    (tmp_path / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + b"\0" * 8)
    assert "its header is not readable" in refused(tmp_path)


def test_a_file_that_the_index_names_must_be_there(folder):
    file = tensor_entries(folder)[UP].file
    file.unlink()
    assert f"names {file.name}, which is not there" in refused(folder)


def test_files_of_different_exports_are_refused(folder):
    file = tensor_entries(folder)[UP].file
    state = load_file(file)
    del state[UP]
    save_file(state, file)
    assert f"{file}: lacks tensor {UP}, which model.safetensors.index.json says it holds" in refused(folder)


def test_a_tensor_that_the_index_puts_in_another_file_is_named(folder):
    index = folder / "model.safetensors.index.json"
    text = json.loads(index.read_text())
    text["weight_map"][UP] = next(name for name in text["weight_map"].values() if name != text["weight_map"][UP])
    index.write_text(json.dumps(text))
    assert f"lacks tensor {UP}, which" in refused(folder)


@pytest.mark.parametrize(
    "text", ["", "{}", '{"weight_map": 3}', '{"weight_map": {"w": 3}}', '{"weight_map": {"w": "../x"}}']
)
def test_a_broken_index_is_refused(text, folder):
    (folder / "model.safetensors.index.json").write_text(text)
    assert "not an index of safetensors files" in refused(folder)


def test_a_folder_without_weights_is_refused(tmp_path):
    assert "no *.safetensors there; export the weights in Hugging Face format (model.safetensors, or" in refused(
        tmp_path
    )
