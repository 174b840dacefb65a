"""Weights & Biases and MLflow, where a run is told to use them: the scalars of metrics.jsonl, sent from a thread.

Neither is among the project's dependencies, and neither may hold up or end a run: what fails is warned of once, and no
more is sent. Both take up the run they had when a run is continued; steps that are trained again are sent again.
"""

import contextlib
import importlib.util
import os
import queue
import secrets
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

from nemo_forking.config import Config
from nemo_forking.config.load import plain_values
from nemo_forking.errors import UserError
from nemo_forking.files import write_aside

PATIENCE = 30.0  # seconds that a run's end waits for what was not sent yet
KEPT = 10_000  # records that wait to be sent, at most
NAMES = ("wandb", "mlflow")


def check_services(config: Config) -> None:
    """Raises UserError where a service is asked for whose package is not installed."""
    for name in NAMES:
        if getattr(config.trainer, name) is not None and importlib.util.find_spec(name) is None:
            raise UserError(
                f"trainer.{name}={getattr(config.trainer, name)}, but the package {name} is not installed: "
                f"`pip install {name}`, or trainer.{name}=null"
            )


def open_services(config: Config, warn: Callable[[str], None]) -> list["Service"]:
    """The services a run is told to use."""
    kinds = {"wandb": Wandb, "mlflow": Mlflow}
    return [kinds[name](config, warn) for name in NAMES if getattr(config.trainer, name) is not None]


class Service(ABC):
    """One service; its package is imported, and all of it called, in a thread of its own.

    Args:
        config: the run's.
        warn: shows a line on the console.
    """

    name = ""

    def __init__(self, config: Config, warn: Callable[[str], None]):
        self.config, self.warn = config, warn
        self.waiting: queue.Queue[tuple[int, dict[str, float]] | None] = queue.Queue(KEPT)
        self.thread = threading.Thread(target=self._send, name=self.name, daemon=True)
        self.thread.start()

    @abstractmethod
    def start(self) -> None:
        """Begin the run at the service, or take it up again."""

    @abstractmethod
    def log(self, step: int, scalars: dict[str, float]) -> None:
        """One step."""

    @abstractmethod
    def finish(self) -> None:
        """All was sent."""

    def put(self, step: int, scalars: dict[str, float]) -> None:
        """Have a step sent when there is time; dropped where the service is far behind."""
        if self.thread.is_alive() and not self.waiting.full():
            self.waiting.put((step, scalars))

    def close(self) -> None:
        """Wait a little for what was not sent."""
        if self.thread.is_alive():
            with contextlib.suppress(queue.Full):
                self.waiting.put(None, timeout=PATIENCE)
            self.thread.join(PATIENCE)
            if self.thread.is_alive():
                self.warn(
                    f"{self.name} has not taken everything within {PATIENCE:.0f} s: its last steps may be missing"
                )

    def _send(self) -> None:
        try:
            self.start()
            while (found := self.waiting.get()) is not None:
                self.log(*found)
            self.finish()
        except BaseException as error:  # noqa: BLE001 - a service never ends a run
            self.warn(f"{self.name} gets no more of this run's metrics: {type(error).__name__}: {error}")


class Wandb(Service):
    """Weights & Biases; the run's id is kept in wandb.id."""

    name = "wandb"

    def start(self) -> None:
        """A run of the project; WANDB_MODE=offline is heeded. Never asks for a key."""
        import wandb

        folder = Path(self.config.run.folder)
        kept = folder / "wandb.id"
        if not kept.exists():
            write_aside(kept, secrets.token_hex(4))
        self.run = wandb.init(
            project=self.config.trainer.wandb,
            name=self.config.run.name,
            id=kept.read_text(),
            resume="allow",
            dir=str(folder),
            config=plain_values(self.config),
            settings=wandb.Settings(console="off", silent=True, login_timeout=1),
        )
        self.run.define_metric("step")
        self.run.define_metric("*", step_metric="step")  # else steps that come twice are refused

    def log(self, step: int, scalars: dict[str, float]) -> None:
        """One step."""
        self.run.log({"step": step, **scalars})

    def finish(self) -> None:
        """Send the rest, and wait for wandb's own process, as the end of a rank would not: it runs no exit handlers."""
        import wandb

        self.run.finish()  # what it hands on is written and sent after it has returned
        wandb.teardown()


class Mlflow(Service):
    """MLflow; an experiment is named after the run, the run's id is kept in mlflow.id."""

    name = "mlflow"

    def start(self) -> None:
        """A run at the tracking address; a server that does not answer is given up soon."""
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        import mlflow

        self.client = mlflow.MlflowClient(self.config.trainer.mlflow)
        kept, name = Path(self.config.run.folder) / "mlflow.id", self.config.run.name
        if not kept.exists():
            known = self.client.get_experiment_by_name(name)
            experiment = known.experiment_id if known else self.client.create_experiment(name)
            write_aside(kept, self.client.create_run(experiment, run_name=name).info.run_id)
        self.run_id, self.metric = kept.read_text(), mlflow.entities.Metric

    def log(self, step: int, scalars: dict[str, float]) -> None:
        """One step, in one request."""
        at = int(1000 * time.time())
        self.client.log_batch(self.run_id, [self.metric(name, value, at, step) for name, value in scalars.items()])

    def finish(self) -> None:
        """Nothing: a run that was stopped is the same run later."""
