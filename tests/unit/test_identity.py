"""What tells one training run from another."""

import json
import shutil

import pytest

from nemo_forking.checksums import SUMS, file_facts
from nemo_forking.config import load, with_overrides
from nemo_forking.data.encoding import FILES
from nemo_forking.errors import UserError
from nemo_forking.training.identity import check_base_whole, check_same, fingerprint, policy_identity


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


@pytest.mark.parametrize("name", FILES)
def test_another_tokenizer_makes_another_run(name, tmp_path):
    identities = []
    for text in ("{}", "{ }"):
        for file in FILES:
            (tmp_path / file).write_text(text if file == name else "{}")
        identities.append(policy_identity(load(["experiment=tiny", f"data.tokenizer={tmp_path}"]), prompts=""))
    assert [key for key, value in identities[0].items() if value != identities[1][key]] == ["data.tokenizer"]


def test_a_run_does_not_begin_from_a_base_with_a_flipped_bit(model, tmp_path):
    file = model / "model-00001-of-00001.safetensors"
    (model / SUMS).write_text(json.dumps({file.name: file_facts(file)}))
    config = load(["experiment=tiny", f"model.base={model}", f"run.folder={tmp_path / 'run'}"])
    check_base_whole(config)
    spoiled = bytearray(file.read_bytes())
    spoiled[5000] ^= 1
    file.write_bytes(spoiled)
    with pytest.raises(UserError, match=f"model.base={model} is damaged: {file.name} is not what was written"):
        check_base_whole(config)
    (tmp_path / "run" / "checkpoints" / "step_0000001").mkdir(parents=True)
    check_base_whole(config)  # which goes on without reading the base
    with pytest.raises(UserError, match=f"model.base={model} is damaged"):
        check_base_whole(with_overrides(config, {"policy.kl_weight": 0.1}))  # read in every life
