"""The set step inside NeMo's training loop: learning rate, matching, metrics, checkpoints, resume."""

import dataclasses
import resource
import time
from collections.abc import Callable
from pathlib import Path

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from nemo.lightning.megatron_parallel import MegatronStep

from nemo_forking.config import Config
from nemo_forking.training.checkpoint import Checkpoints
from nemo_forking.training.identity import identity
from nemo_forking.training.metrics import Metrics
from nemo_forking.training.schedule import learning_rate
from nemo_forking.training.step import Matched, SetStep


class SetLoop(pl.Callback):
    """Lightning's callback around every optimizer step; one per rank."""

    def __init__(
        self,
        config: Config,
        set_step: SetStep,
        checkpoints: Checkpoints,
        latest: Path | None,
        after_step: Callable[[dict], None] | None,
    ):
        self.config, self.set_step, self.checkpoints = config, set_step, checkpoints
        self.identity = identity(config, set_step.file)
        self.latest, self.after_step = latest, after_step
        self.metrics: Metrics | None = None
        self.matched: Matched | None = None
        self.last: dict = {}

    # ------------------------------------------------------------ Lightning's hooks

    def on_train_start(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        """Continue from the newest checkpoint, under whatever layout this run has."""
        done = 0
        if self.latest:
            extra = self.checkpoints.load(trainer.strategy, self.latest, self.identity)
            done = extra["step"]
            self.set_step.statistics.load_state_dict(extra["statistics"])
        progress = trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step
        progress.total.completed = progress.current.completed = done  # Lightning's global_step
        if dist.get_rank() == 0:
            run, steps = self.config.run, self.config.trainer.max_steps
            self.metrics = Metrics(Path(run.folder), run.name, steps, done, self.config.trainer.log_every)

    def on_train_batch_start(self, trainer: pl.Trainer, model: pl.LightningModule, batch, batch_idx: int) -> None:
        """Set this step's learning rate."""
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
            group["lr"] = self.lr

    def begin(self, step: MegatronStep) -> MegatronStep:
        """Score, match, and return the step over the matched pairs' micro-batches (called by SetSampler)."""
        batches, self.matched = self.set_step(list(step.pipeline), step.step_i)
        return dataclasses.replace(
            step,
            data=iter(batches.micro_batches),
            micro_batch_size=batches.batch,
            seq_length=batches.time,
            num_microbatches=len(batches.micro_batches),
        )

    def on_train_batch_end(self, trainer: pl.Trainer, model: pl.LightningModule, outputs, batch, batch_idx) -> None:
        """Record the step, then checkpoint when one is due."""
        record = self._record(trainer)
        if self.metrics:
            self.metrics.write(record)
        every, last = self.config.trainer.checkpoint_every, self.config.trainer.max_steps
        if record["step"] % every == 0 or record["step"] == last:
            extra = {"identity": self.identity, "statistics": self.set_step.statistics.state_dict()}
            self.checkpoints.save(trainer.strategy, record["step"], extra)
        self.last = record
        if self.after_step:
            self.after_step(record | {"matched": self.matched})

    def on_train_end(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        """Close the records."""
        if self.metrics:
            self.metrics.close()

    # ------------------------------------------------------------

    def _record(self, trainer: pl.Trainer) -> dict:
        m, logged = self.matched, trainer.callback_metrics
        elapsed = time.perf_counter() - self.started
        seconds = m.seconds | {"training": elapsed - sum(m.seconds.values())}
        return {
            "step": trainer.global_step,
            "loss": float(logged["reduced_train_loss"]),
            "grad_norm": float(logged["grad_norm"]),
            "lr": self.lr,
            **m.statistics,
            "tokens": m.tokens_trained,
            "tokens_scored": m.tokens_scored,
            "tokens_per_s": m.tokens_trained / elapsed,
            "model_flops_per_s": m.flops / elapsed,
            "peak_memory_gib": round(peak_memory_gib(), 3),
            "seconds": {name: round(value, 4) for name, value in seconds.items()},
        }


def peak_memory_gib() -> float:
    """Most memory this rank has held so far: allocated on its GPU, or resident in its process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
