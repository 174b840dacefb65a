"""A step of ours inside NeMo's training loop: learning rate, metrics, checkpoints, resume."""

import dataclasses
import time
from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import lightning.pytorch as pl
import torch.distributed as dist
from nemo.lightning.megatron_parallel import MegatronParallel, MegatronStep

from nemo_forking import pulse
from nemo_forking.config import Config
from nemo_forking.errors import Stopped
from nemo_forking.training.checkpoint import Checkpoints
from nemo_forking.training.finite import check_finite
from nemo_forking.training.machine import Comparison
from nemo_forking.training.metrics import Metrics
from nemo_forking.training.pace import pace
from nemo_forking.training.passes import Pass
from nemo_forking.training.schedule import learning_rate
from nemo_forking.training.stop import StopRequest


class Loop(pl.Callback):
    """Lightning's callback around every optimizer step, one per rank; subclasses say what a step trains on.

    Attributes:
        last: the last step's metrics.
    """

    bar = True  # progress bar on a terminal

    def __init__(
        self,
        config: Config,
        identity: dict,
        checkpoints: Checkpoints,
        latest: Path | None,
        after_step: Callable[[dict], None] | None,
    ):
        self.config, self.identity, self.checkpoints = config, identity, checkpoints
        self.latest, self.after_step = latest, after_step
        self.metrics: Metrics | None = None
        self.last: dict = {}
        self.stop = StopRequest()

    @abstractmethod
    def prepare(self, model: MegatronParallel, step: int) -> Pass:
        """This rank's micro-batches of optimizer step `step` (from 0)."""

    @abstractmethod
    def question_of(self, row: int) -> str:
        """The id of the question a row of this step is of, by the row's name (Row.names)."""

    @abstractmethod
    def decided(self) -> tuple[dict, dict[str, float], Any]:
        """After the step: what it adds to the metrics, seconds spent before training, and what `after_step` may see."""

    @abstractmethod
    def line(self, record: dict) -> list[str]:
        """What of the metrics is shown on the console."""

    def state(self) -> dict:
        """What goes into a checkpoint besides model and optimizer (json)."""
        return {}

    def restore(self, state: dict) -> None:
        """Take up what `state` gave."""

    def may_save(self, step: int) -> bool:
        """Whether a run can be continued from behind this step."""
        return True

    # ------------------------------------------------------------ Lightning's hooks

    def on_train_start(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        """Continue from the newest checkpoint, under whatever layout this run has."""
        self.strategy, self.lightning_module, done = trainer.strategy, model, 0
        self.stop.listen()  # after Lightning, which listens too
        if self.latest:
            extra = self.checkpoints.resume(trainer.strategy, self.identity)
            done = extra["step"]
            self.restore(extra)
        self.comparison = Comparison()
        self._note_arrival(model)
        progress = trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step
        progress.total.completed = progress.current.completed = done  # Lightning's global_step
        if dist.get_rank() == 0:
            self.metrics = Metrics(self.config, done, self.line, bar=self.bar)

    def on_train_batch_start(self, trainer: pl.Trainer, model: pl.LightningModule, batch, batch_idx: int) -> None:
        """Set this step's learning rate."""
        pulse.begin_step(trainer.global_step + 1)
        pace.probe()
        self.started = time.perf_counter()
        o = self.config.optim
        self.lr = learning_rate(
            trainer.global_step + 1,
            peak=o.lr,
            floor=o.min_lr,
            steps=self.config.trainer.max_steps,
            warmup_fraction=o.warmup_fraction,
        )
        for group in trainer.strategy.optimizers[0].param_groups:
            group["lr"] = self.lr * group.get("lr_mult", group.get("pre_lr_mult"))  # NeMo renames it

    def begin(self, step: MegatronStep) -> MegatronStep:
        """The step over our own micro-batches (called by StepSampler)."""
        self.lightning_module.training_loss_reduction.begin()
        try:
            share = self.prepare(step.pipeline, step.step_i)
        except Stopped as stopped:  # on every rank alike, and nothing of this step has been done to the model
            self._end(step.step_i, str(stopped))
        pulse.enter("training")
        pace.begin("training")
        return dataclasses.replace(
            step,
            data=pulse.each(share.micro_batches),
            micro_batch_size=share.batch,
            seq_length=share.time,
            num_microbatches=len(share.micro_batches),
        )

    def on_before_optimizer_step(self, trainer: pl.Trainer, model: pl.LightningModule, optimizer) -> None:
        """Gradients are complete, and nothing was updated yet."""
        seen = model.training_loss_reduction.seen
        check_finite(trainer.global_step + 1, trainer.strategy.megatron_parallel, seen, self.question_of)

    def on_train_batch_end(self, trainer: pl.Trainer, model: pl.LightningModule, outputs, batch, batch_idx) -> None:
        """Record the step, then checkpoint when one is due."""
        record, told = self._record(trainer)
        if self.metrics:
            self.metrics.write(record)
            for warning in self.comparison.stragglers(record["slowest"]):
                self.metrics.warn(warning)
        step, every, last = record["step"], self.config.trainer.checkpoint_every, self.config.trainer.max_steps
        if step % every == 0 or step == last:
            self._save(step)
        self.last = record
        if self.after_step:
            self.after_step(record | told)
        if step < last and self.may_save(step) and (name := self.stop.agreed()):
            self._end(step, name)

    def on_train_end(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        """Close the records."""
        if self.metrics:
            self.metrics.close()

    # ------------------------------------------------------------

    def _save(self, step: int) -> None:
        with pulse.phase("checkpoint", growing=self.checkpoints.folder):
            self.checkpoints.save(self.strategy, step, {"identity": self.identity, **self.state()})

    @staticmethod
    def _note_arrival(model: pl.LightningModule) -> None:
        """Have this rank's pace told when its gradients are there, before those of others are waited for."""
        reduce = model.optim.finalize_model_grads

        def arrive_and_reduce(*args, **kwargs):
            pace.arrive()
            return reduce(*args, **kwargs)

        model.optim.finalize_model_grads = arrive_and_reduce

    def _end(self, step: int, name: str) -> NoReturn:
        """Save what no checkpoint has, and end before the run's time; every rank calls it. Barriers (world)."""
        if step and not self.checkpoints.has(step):
            self._save(step)
        if self.metrics:
            self.metrics.close()
        dist.barrier()  # whoever ends first brings the others down
        raise Stopped(f"ended by {name} after step {step}, which is saved: the same command goes on from there")

    def _record(self, trainer: pl.Trainer) -> tuple[dict, dict]:
        decided, seconds, told = self.decided()
        elapsed, logged = time.perf_counter() - self.started, trainer.callback_metrics
        seconds = seconds | {"training": elapsed - sum(seconds.values())}
        flops = decided.pop("flops")
        record = {
            "step": trainer.global_step,
            "time": round(time.time(), 3),
            "loss": float(logged["reduced_train_loss"]),
            "grad_norm": float(logged["grad_norm"]),
            "lr": self.lr,
            **decided,
            "tokens_per_s": decided["tokens"] / elapsed,
            "model_flops_per_s": flops / elapsed,
            "seconds": {name: round(value, 4) for name, value in seconds.items()},
            **(self.comparison.gather() or {}),
        }
        return record, told
