"""What an evaluation refuses before anything is generated, and what a system is asked with."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from nemo_forking.config import load, with_overrides
from nemo_forking.data.encoding import load_tokenizer
from nemo_forking.errors import UserError
from nemo_forking.evaluation.measure import System
from nemo_forking.evaluation.run import check_systems
from nemo_forking.tags import add_to_tokenizer, make_tags
from nemo_forking.tasks import many_ways


@pytest.fixture(scope="module")
def tiny():
    return load(["experiment=tiny"])


def model_folder(folder, rows=128, tags=0):
    """What a system reads of a model: config, weights (of no use), tokenizer."""
    many_ways.make_tokenizer(folder)
    if tags:
        tokenizer = load_tokenizer(folder)
        add_to_tokenizer(tokenizer, make_tags(tokenizer, "special", tags, vocabulary_rows=rows))
        tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"vocab_size": rows}))
    save_file({"w": np.zeros(1)}, folder / "model.safetensors")
    return folder


def opened(tiny, folder, **settings):
    config = with_overrides(tiny, {"evaluation.systems": [{"model": str(folder), **settings}]})
    return System(config, config.evaluation.systems[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperatures": []}, "evaluation.temperatures is empty"),
        ({"temperatures": [0.7, 1.0, 0.7]}, r"evaluation.temperatures=\[0.7, 1, 0.7\] names one twice"),
        ({"systems": []}, "evaluation.systems is empty"),
        ({"systems": [{"model": "m", "name": "../out"}]}, r"evaluation.systems.0.name='../out' names a folder too"),
        ({"systems": [{"model": "m", "name": ""}]}, "evaluation.systems.0.name='' names a folder too"),
        ({"systems": [{"model": "m", "name": "a\nb"}]}, "none of them a slash, a line end"),
        ({"systems": [{"model": "m"}, {"model": "n", "tags": "one", "one_tag": 6}]}, "systems.1.one_tag=6 must be"),
        ({"systems": [{"model": "m"}, {"model": "n"}]}, "another system named model with seed 0"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_by_name(tiny, changes, message):
    config = with_overrides(tiny, {f"evaluation.{key}": value for key, value in changes.items()})
    with pytest.raises(UserError, match=message):
        check_systems(config)


def test_names_of_the_papers_rows_are_fine(tiny):
    names = ["SSFT-32B (random σ)", "..", "a b"]
    systems = [{"model": "m", "name": name, "tags": "every", "one_tag": 9} for name in names]
    check_systems(with_overrides(tiny, {"evaluation.systems": systems}))


def test_a_model_without_all_its_weights_is_refused_before_it_is_loaded(tiny, tmp_path):
    folder = model_folder(tmp_path)
    opened(tiny, folder)
    index = {"weight_map": {"w": "model.safetensors", "v": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="names model-2.safetensors, which is not there"):
        opened(tiny, folder)
    (folder / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(UserError, match=r"index.json: not an index of safetensors files"):
        opened(tiny, folder)
    (folder / "model.safetensors.index.json").unlink()
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")  # its hash would not be taken
    with pytest.raises(UserError, match=r"no \*.safetensors there"):
        opened(tiny, folder)
    (folder / "config.json").write_text("{}")
    with pytest.raises(UserError, match="config.json: vocab_size is None"):
        opened(tiny, folder)


def test_a_model_without_tags_needs_no_room_for_them_and_one_with_tags_never_writes_them(tiny, tmp_path):
    (tmp_path / "plain").mkdir()
    (tmp_path / "tagged").mkdir()
    many_ways.make_tokenizer(tmp_path / "plain")
    own = len(load_tokenizer(tmp_path / "plain"))
    folder = model_folder(tmp_path / "plain", rows=own)
    system = opened(tiny, folder, tags="none")
    assert (system.choice.slots, system.banned) == (6, set())
    with pytest.raises(UserError, match="does not fit the model's"):
        opened(tiny, folder, tags="every")
    tagged = model_folder(tmp_path / "tagged", rows=own + 8, tags=6)
    for mode in ("none", "every", "own", "one"):
        system = opened(tiny, tagged, tags=mode)
        assert system.banned == set(range(own, own + 8))
        assert mode == "none" or system.choice.tags.fork_ids == tuple(range(own, own + 6))
