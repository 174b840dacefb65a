"""Megatron distributed checkpoints told by .metadata and the sizes of their files: every damage is named."""

import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint.metadata import MetadataIndex

from nemo_forking.errors import UserError
from nemo_forking.model.base import base_weights, check_base
from nemo_forking.model.dist_checkpoint import DistCheckpoint
from nemo_forking.model.dist_writer import write_files
from nemo_forking.model.hf_folder import tensor_shape, tensor_shapes
from nemo_forking.model.sources import from_seed
from tests.unit.shapes import Shape

SHAPE, FC2 = Shape(num_layers=3), "decoder.layers.mlp.linear_fc2.weight"
SOURCE = from_seed(lambda name: tensor_shape(SHAPE, name), seed=0, std=1.0)


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    write_files(folder, SHAPE, SOURCE, tell=lambda line: None)
    return folder


@pytest.fixture
def folder(written, tmp_path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "copy"))


def refused(folder: Path, shape: Shape = SHAPE) -> str:
    with pytest.raises(UserError) as caught:
        check_base(folder, shape)
    assert str(caught.value).startswith(f"model.base={folder}: ")
    return str(caught.value)


def change(folder: Path, how) -> None:
    """Change .metadata."""
    metadata = pickle.loads((folder / ".metadata").read_bytes())
    how(metadata)
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))


def test_every_tensor_is_there_in_any_order_asked(folder):
    check_base(folder, SHAPE)
    source, names = base_weights(folder, SHAPE), list(tensor_shapes(SHAPE))
    for name in names + names[::-1] + names[::3]:
        assert torch.equal(source(name), SOURCE(name)), name


def test_states_of_transformer_engine_are_there_empty_and_are_not_read(folder):
    stored = DistCheckpoint(folder, SHAPE)._metadata.state_dict_metadata
    states = {key for key in stored if "_extra_state" in key}
    assert "decoder.final_layernorm._extra_state/shard_0_1" in states
    assert "decoder.layers.self_attention.core_attention._extra_state/shard_2_3" in states
    assert len(states) == 3 * 5 + 1

    def fill(metadata) -> None:  # as of a run in 8 bits, and of one that kept tensors in their place
        metadata.state_dict_metadata["decoder.layers.mlp.linear_fc1._extra_state"] = metadata.state_dict_metadata[FC2]

    change(folder, fill)
    check_base(folder, SHAPE)


@pytest.mark.parametrize("text", [b"", b"nonsense", pickle.dumps([1, 2])], ids=["empty", "nonsense", "a list"])
def test_a_damaged_metadata_is_refused(text, folder):
    (folder / ".metadata").write_bytes(text)
    assert "no readable Megatron checkpoint (.metadata: " in refused(folder)


def test_a_wrong_shape_is_named_with_the_expected_and_the_found_one(folder):
    message = refused(folder, replace(SHAPE, ffn_hidden_size=26))
    assert f"tensor {FC2}: expected shape (3, 16, 26), found (3, 16, 24)" in message
    assert "set the model group" in message


def test_another_number_of_layers_is_refused(folder):
    message = refused(folder, replace(SHAPE, num_layers=2))
    assert f"tensor {FC2}: expected shape (2, 16, 24), found (3, 16, 24)" in message


def test_a_head_that_the_model_does_not_have_is_named(folder):
    message = refused(folder, replace(SHAPE, tie_embeddings=True))
    assert "tensor output_layer.weight: found shape (40, 16), the configured model has no such tensor" in message


def test_a_missing_tensor_is_named_with_its_shape(folder):
    change(folder, lambda metadata: metadata.state_dict_metadata.pop(FC2))
    assert f"tensor {FC2}: expected shape (3, 16, 24), it is not in the checkpoint" in refused(folder)


def test_integers_are_no_weights(folder):
    def integers(metadata) -> None:
        metadata.state_dict_metadata[FC2].properties.dtype = torch.int8

    change(folder, integers)
    assert f"tensor {FC2}: expected floating-point numbers, found torch.int8" in refused(folder)


def test_a_missing_file_is_named_with_its_tensors(folder):
    (folder / "__2_0.distcp").unlink()  # the second layer
    message = refused(folder)
    assert f"tensor {FC2}, piece of shape (1, 16, 24) at (1, 0, 0): expected in __2_0.distcp, which is not" in message


def test_a_file_cut_off_is_named_with_the_bytes_expected_and_found(folder):
    file = folder / "__4_0.distcp"  # after the last layer
    file.write_bytes(file.read_bytes()[:3000])
    message = refused(folder)
    assert "not a whole checkpoint" in message and "__4_0.distcp is cut off, expected " in message
    assert "tensor output_layer.weight, piece of shape (40, 16) at (0, 0)" in message and "found 3,000" in message


def test_an_index_to_nowhere_is_refused(folder):
    change(folder, lambda m: m.storage_data.pop(MetadataIndex(FC2, torch.Size((1, 0, 0)))))
    assert f"tensor {FC2}, piece of shape (1, 16, 24) at (1, 0, 0): .metadata does not tell" in refused(folder)


def test_too_few_bytes_for_a_shape_are_refused(folder):
    def shorten(metadata) -> None:
        metadata.storage_data[MetadataIndex(FC2, torch.Size((1, 0, 0)))].length = 100

    change(folder, shorten)
    assert "expected 1,536 bytes, found 100 in __2_0.distcp" in refused(folder)


def test_a_gap_between_pieces_is_refused(folder):
    change(folder, lambda metadata: metadata.state_dict_metadata[FC2].chunks.pop())
    assert f"tensor {FC2}: expected shape (3, 16, 24), its pieces hold 768 numbers" in refused(folder)


def test_bytes_that_are_no_tensor_are_named_when_they_are_read(folder):
    file = folder / "__1_0.distcp"
    file.write_bytes(b"x" * file.stat().st_size)
    check_base(folder, SHAPE)
    with pytest.raises(UserError, match=r"linear_fc2.weight, layer 0 of shape \(1, 16, 24\) cannot be read"):
        base_weights(folder, SHAPE)("model.layers.0.mlp.down_proj.weight")
