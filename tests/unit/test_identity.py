"""What tells one training run from another."""

import shutil

import pytest

from nemo_forking.errors import UserError
from nemo_forking.training.identity import check_same, fingerprint


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model-00001-of-00001.safetensors").write_bytes(bytes(range(256)) * 40)
    return folder


def test_a_copied_model_has_the_same_fingerprint(model, tmp_path):
    copy = shutil.copytree(model, tmp_path / "elsewhere")
    assert fingerprint(copy) == fingerprint(model)


@pytest.mark.parametrize("place", [0, 100, -1])
def test_weights_trained_anew_have_another_fingerprint(model, place):
    before = fingerprint(model, sampled=128)
    file = model / "model-00001-of-00001.safetensors"
    spoiled = bytearray(file.read_bytes())
    spoiled[place] ^= 1
    file.write_bytes(spoiled)
    assert fingerprint(model, sampled=128) != before


def test_every_difference_is_named_with_both_values_and_a_remedy(tmp_path):
    wanted = {"run.seed": 1, "matching.rule": "optimal", "loss.normalise": "token"}
    check_same(wanted, wanted, tmp_path)
    with pytest.raises(UserError) as error:
        check_same({"run.seed": 2, "matching.rule": "optimal"}, wanted, tmp_path)
    message = str(error.value)
    assert "run.seed: there 2, here 1" in message and "loss.normalise: there None, here 'token'" in message
    assert "matching.rule" not in message and "choose another run.folder" in message
