"""Metrics to Weights & Biases and MLflow: W&B itself, offline (NeMo brings it); for MLflow a recorder in its place."""

import json
import sys
import time
from types import SimpleNamespace

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from nemo_forking.config import load
from nemo_forking.errors import UserError
from nemo_forking.training import services
from nemo_forking.training.metrics import Metrics
from nemo_forking.training.services import Mlflow, Wandb, check_services, open_services

CLIENT = """
import json, os, pathlib
from types import SimpleNamespace as Facts

class entities:
    Metric = staticmethod(lambda name, value, at, step: [name, value, step])

class MlflowClient:
    def __init__(self, address):
        self.file = pathlib.Path(address)
    def _note(self, *what):
        if os.environ.get("MLFLOW_FAILS") == what[0]:
            raise ConnectionError("no such server")
        with self.file.open("a") as file:
            file.write(json.dumps(what) + "\\n")
    def get_experiment_by_name(self, name):
        return None
    def create_experiment(self, name):
        self._note("experiment", name)
        return "7"
    def create_run(self, experiment, run_name):
        self._note("run", experiment, run_name)
        return Facts(info=Facts(run_id="r1"))
    def log_batch(self, run, metrics):
        self._note("log", run, metrics)
"""


def config(folder, **trainer):
    overrides = [f"run.folder={folder}", "run.name=try", *(f"trainer.{key}={value}" for key, value in trainer.items())]
    return load(["experiment=tiny", *overrides])


@pytest.fixture
def recorder(tmp_path, monkeypatch):
    """A module of MLflow's client that writes down what it is given; its address is a file."""
    (tmp_path / "mlflow.py").write_text(CLIENT)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mlflow", raising=False)
    yield tmp_path / "server.jsonl"
    sys.modules.pop("mlflow", None)


def noted(file) -> list:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def test_a_package_that_is_missing_is_told_before_ranks_start(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", SimpleNamespace(__spec__=None))
    monkeypatch.setattr(services.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="trainer.mlflow=x, but the package mlflow is not installed: `pip install"):
        check_services(config(tmp_path, mlflow="x"))
    check_services(config(tmp_path))


def test_mlflow_gets_every_step_and_a_continued_run_is_the_same_there(recorder, tmp_path):
    warnings = []
    for step in (1, 2):
        (service,) = open_services(config(tmp_path / "run", mlflow=recorder), warnings.append)
        service.put(step, {"loss": 0.5 / step, "seconds/training": 2.0})
        service.close()
    assert not warnings
    assert noted(recorder) == [
        ["experiment", "try"],
        ["run", "7", "try"],
        ["log", "r1", [["loss", 0.5, 1], ["seconds/training", 2.0, 1]]],
        ["log", "r1", [["loss", 0.25, 2], ["seconds/training", 2.0, 2]]],
    ]


def test_every_service_and_tensorboard_get_the_scalars_of_a_step(recorder, tmp_path):
    metrics = Metrics(config(tmp_path / "run", mlflow=recorder), 0, lambda record: [], bar=False)
    for step in (1, 2):
        numbers = {"loss": 0.5 / step, "grad_norm": 1.0, "lr": 1e-3, "tokens_per_s": 9.0}
        metrics.write({"step": step, **numbers, "seconds": {"training": 2.0}, "tag_usage": [1, 2]})
    metrics.close()
    names = ["loss", "grad_norm", "lr", "tokens_per_s", "seconds/training"]
    logged = [[name for name, *_ in told] for what, *_, told in noted(recorder) if what == "log"]
    assert logged == [names, names]
    board = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert set(board.Tags()["scalars"]) == set(names)
    assert [(event.step, event.value) for event in board.Scalars("loss")] == [(1, 0.5), (2, 0.25)]


@pytest.mark.parametrize("where", ["run", "log"])
def test_a_service_that_fails_is_warned_of_once_and_holds_nothing_up(where, recorder, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_FAILS", where)
    warnings = []
    service = Mlflow(config(tmp_path / "run", mlflow=recorder), warnings.append)
    for step in range(3):
        service.put(step, {"loss": 1.0})
        time.sleep(0.05)
    service.close()
    assert warnings == ["mlflow gets no more of this run's metrics: ConnectionError: no such server"]


def test_wandb_itself_takes_the_steps_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    warnings = []
    service = Wandb(config(tmp_path, wandb="project"), warnings.append)
    for step in (1, 2, 2, 3):
        service.put(step, {"loss": 0.1 * step})
    service.close()
    assert not warnings and not service.thread.is_alive()
    (record,) = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    kept = (tmp_path / "wandb.id").read_text()
    assert kept in record.name and record.read_bytes().count(b"loss") >= 4
