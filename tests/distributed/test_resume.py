"""A run that is killed goes on as if it had not been: losses, assignments, statistics and weights, under any layout.

The kill is a real SIGKILL of one rank. Eight questions, four a step: every second step ends an epoch.
"""

import os
import signal
from pathlib import Path

import numpy as np
import pytest
from megatron.core import dist_checkpointing

from nemo_forking.config import Config
from nemo_forking.training import checkpoint
from nemo_forking.training.launch import RankFailed
from tests.distributed.resuming import ADAM, STEPS, assert_same, finish, kill, model, note, trained
from tests.distributed.runs import DATA, ONE, PIPELINE, TENSOR, Ground, errors, metrics, run, tiny
from tests.run_files import assert_same_weights, records

CONTEXT = {"layout.devices": 2, "layout.context": 2, "batch.packing": False}
INTERLEAVED = PIPELINE | {"layout.virtual_pipeline": 2}
FOUR = {"layout.devices": 4, "layout.tensor": 2, "layout.pipeline": 2, "layout.sequence_parallel": True}
OVERLAPPED = DATA | {"layout.overlap_grad_reduce": True, "layout.overlap_param_gather": True}


@pytest.fixture(scope="module")
def whole(ground, tmp_path_factory) -> Config:
    """An uninterrupted run in one process."""
    return finish(tiny(ground, tmp_path_factory.mktemp("whole"), ADAM))


@pytest.fixture(scope="module")
def whole_tied(ground, tmp_path_factory) -> Config:
    return finish(tiny(ground, tmp_path_factory.mktemp("tied"), ADAM | tied(ground)))


def tied(ground: Ground) -> dict:
    return {"model.tie_embeddings": True, "model.base": str(ground.tied_base)}


def test_a_run_killed_after_every_step_equals_an_uninterrupted_one_exactly(ground, whole, tmp_path):
    config = tiny(ground, tmp_path, ADAM)
    for step in range(1, STEPS + 1):
        kill(config, after=step)
    assert not (tmp_path / "model").exists()  # killed after the last step: nothing exported yet
    finish(config)
    assert trained(config) == trained(whole)
    assert_same(config, whole)


def test_every_life_may_have_another_layout(ground, whole, tmp_path):
    lives = (OVERLAPPED, TENSOR, PIPELINE, DATA, FOUR, INTERLEAVED)
    for step, layout in enumerate(lives, start=1):
        kill(tiny(ground, tmp_path, ADAM | layout), after=step)
    assert_continued(finish(tiny(ground, tmp_path, ADAM | CONTEXT)), whole)


def test_a_tied_model_may_change_layout_too(ground, whole_tied, tmp_path):
    for step, layout in ((2, PIPELINE), (4, FOUR), (5, DATA)):
        kill(tiny(ground, tmp_path, ADAM | tied(ground) | layout), after=step)
    assert_continued(finish(tiny(ground, tmp_path, ADAM | tied(ground))), whole_tied)


def test_the_plain_optimizer_may_change_layout_too(ground, whole, tmp_path):
    plain = {"layout.distributed_optimizer": False}
    for step, layout in ((1, TENSOR), (3, PIPELINE)):
        kill(tiny(ground, tmp_path, ADAM | layout | plain), after=step)
    assert_continued(finish(tiny(ground, tmp_path, ADAM | DATA | plain)), whole)


def test_steps_after_the_last_checkpoint_are_trained_again(ground, whole, tmp_path):
    config = tiny(ground, tmp_path, ADAM | {"trainer.checkpoint_every": 2})
    for step, layout in ((1, ONE), (3, TENSOR), (5, ONE)):
        kill(tiny(ground, tmp_path, ADAM | {"trainer.checkpoint_every": 2} | layout), after=step)
    finish(config)
    assert [line["step"] for line in trained(config)] == [1, 1, 2, 3, 3, 4, 5, 5, 6]
    assert_continued(config, whole)


PLACES = {  # where a save may be cut short -> (module, function)
    "nothing saved yet": (dist_checkpointing, "save"),
    "all but the rename": (checkpoint, "flush_all"),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_save_cut_short_is_passed_over_and_cleared(place, ground, whole, tmp_path):
    config = tiny(ground, tmp_path, ADAM)

    def prepare_to_die(record: dict) -> None:
        note(config)(record)
        if record["step"] == 2:
            setattr(*PLACES[place], lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))

    with pytest.raises(RankFailed, match="SIGKILL"):
        run(config, prepare_to_die)
    assert (tmp_path / "checkpoints" / ".step_0000003.partial").exists()
    assert [line["step"] for line in metrics(config)] == [1, 2, 3]  # step 3 is done, but not saved
    finish(config)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step_0000005", "step_0000006"]
    assert_continued(config, whole)


def test_half_a_line_of_metrics_is_dropped(ground, whole, tmp_path):
    config = tiny(ground, tmp_path, ADAM)
    kill(config, after=3)
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 4, "lo')
    assert_continued(finish(config), whole)


def test_a_finished_run_trains_no_more(ground, whole, tmp_path):
    before = metrics(whole)
    assert run(whole) == [[]]
    assert metrics(whole) == before


def test_another_run_is_not_continued(ground, whole):
    changed = tiny(ground, Path(whole.run.folder), ADAM | TENSOR | {"matching.tokens": 9, "run.seed": 2})
    for kind, message in errors(changed):
        assert kind == "UserError"
        assert "belongs to another run" in message
        assert "matching.tokens: there 10, here 9" in message and "run.seed: there 1, here 2" in message
        assert "remedy: restore these values, or choose another run.folder" in message


def assert_continued(config: Config, whole: Config) -> None:
    """The same steps as the uninterrupted run's, to float32's accuracy; exactly one line of metrics for each."""
    assert [line["step"] for line in metrics(config)] == list(range(1, STEPS + 1))
    wanted = {line["step"]: line for line in trained(whole)}
    for got in trained(config):
        same = wanted[got["step"]]
        for key in ("questions", "sigma_QM", "change_rate", "tag_teacher", "lr"):
            assert got[key] == same[key], (got["step"], key)
        for key in ("loss", "grad_norm", "cost_QNM"):
            np.testing.assert_allclose(got[key], same[key], rtol=1e-4, err_msg=f"step {got['step']}: {key}")
    for got, same in zip(records(config.run.folder), records(whole.run.folder), strict=True):
        assert got.keys() == same.keys()
        assert [got[key] for key in ("lr", "change_rate", "tag_usage")] == [
            same[key] for key in ("lr", "change_rate", "tag_usage")
        ]
    assert_same_weights(model(config), model(whole), rtol=1e-3, atol=1e-4)
