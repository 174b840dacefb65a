"""Distributed checkpoints for exact resume: written aside, renamed when whole, resumable under another TP x PP x DP.

A checkpoint is `step_<n>/`: Megatron's torch_dist files (model and optimizer, fully reshardable), `extra.json`, and the
checksums of all of them. One that is damaged is put aside, and the one before it continued.
"""

import json
import shutil
from pathlib import Path

import torch
import torch.distributed as dist
from megatron.core import dist_checkpointing
from megatron.core.optimizer import ChainedOptimizer
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from nemo.lightning import MegatronStrategy
from torch.distributed.checkpoint.api import CheckpointException

from nemo_forking.checksums import folder_problems
from nemo_forking.errors import UserError, warn
from nemo_forking.files import flush, flush_all, write_aside
from nemo_forking.processes import ending_together
from nemo_forking.storage import storing
from nemo_forking.training.identity import check_same
from nemo_forking.training.integrity import damage, seal
from nemo_forking.training.metrics import METRICS


class Checkpoints:
    """The checkpoints of one run folder, the newest `keep_last` of them."""

    def __init__(self, folder: Path, keep_last: int):
        self.folder, self.keep_last = folder, keep_last
        self.metrics = folder.parent / METRICS

    def latest(self) -> Path | None:
        """The newest checkpoint; parts of one that a kill left behind are never taken for it."""
        return max(self.folder.glob("step_*"), default=None)

    def _agreed_latest(self) -> Path | None:
        """`latest` as rank 0 sees it: a shared file system may show other nodes an older state. One broadcast."""
        found = [self.latest() if dist.get_rank() == 0 else None]
        dist.broadcast_object_list(found, src=0)
        return found[0]

    def has(self, step: int) -> bool:
        """Whether a step is saved, the same on every rank. One broadcast (world)."""
        there = [self._path(step).exists() if dist.get_rank() == 0 else None]
        dist.broadcast_object_list(there, src=0)
        return there[0]

    def save(self, strategy: MegatronStrategy, step: int, extra: dict) -> None:
        """Every rank calls it. `extra` (json) is rank 0's. Collectives: Megatron's own, and world barriers."""
        if strategy.ddp_config.overlap_param_gather:  # else the others' share of the step arrives with the next forward
            strategy.megatron_parallel.force_param_sync()
        with storing(self.folder):
            self._write(strategy, step, extra)
        dist.barrier()

    def _write(self, strategy: MegatronStrategy, step: int, extra: dict) -> None:
        final = self._path(step)
        aside = final.with_name(f".{final.name}.partial")
        if dist.get_rank() == 0:
            for stale in self.folder.glob(".step_*.partial"):
                shutil.rmtree(stale)
            aside.mkdir(parents=True)
        dist.barrier()
        with ending_together():  # Megatron forks processes that write
            dist_checkpointing.save(_sharded(strategy, loading=False), str(aside), content_metadata=_metadata(strategy))
        dist.barrier()
        if dist.get_rank() == 0:
            facts = {"step": step, "distributed_optimizer": strategy.ddp_config.use_distributed_optimizer}
            (aside / "extra.json").write_text(json.dumps(facts | extra))
            if self.metrics.exists():
                shutil.copyfile(self.metrics, aside / METRICS)
        seal(aside)
        if dist.get_rank() == 0:
            flush_all(aside)
            if wrong := folder_problems(aside, largest=0):
                raise UserError(
                    f"{aside}: not what was written ({'; '.join(wrong)}); the checkpoints before it stay as they are. "
                    "remedy: have the file system looked at, then start the same command again"
                )
            shutil.rmtree(final, ignore_errors=True)
            aside.rename(final)
            flush(self.folder)
            self._prune()

    def _prune(self) -> None:
        """Delete what the newest checkpoints, which are whole, have made superfluous."""
        steps = sorted(self.folder.glob("step_*"))
        for old in steps[: -self.keep_last]:
            shutil.rmtree(old)
        for old in sorted(self.folder.glob("damaged_step_*")):
            if old.name.removeprefix("damaged_") < steps[-self.keep_last :][0].name:
                warn(f"{old} was deleted: later checkpoints are whole")
                shutil.rmtree(old)

    def _path(self, step: int) -> Path:
        return self.folder / f"step_{step:07d}"

    def resume(self, strategy: MegatronStrategy, identity: dict) -> dict:
        """Load the newest checkpoint that is as it was written; returns its `extra`.

        Every rank calls it. A damaged one is renamed to `damaged_step_<n>`, with a warning that names its files.

        Raises:
            UserError: all are damaged; or as `load`.
        """
        while path := self._agreed_latest():
            problems = damage(path)
            if not problems:
                extra = self.load(strategy, path, identity)
                self._bring_back_metrics(path)
                return extra
            if dist.get_rank() == 0:
                aside = path.with_name(f"damaged_{path.name}")
                with storing(self.folder):
                    shutil.rmtree(aside, ignore_errors=True)
                    path.rename(aside)
                    flush(self.folder)
                warn(f"{path} is damaged and was renamed to {aside.name}: {'; '.join(problems)}")
            dist.barrier()
        raise UserError(
            f"no checkpoint in {self.folder} is whole (see the warnings above); nothing was changed but their names. "
            "remedy: bring back a good copy as step_<n>, or delete the folder to start the run again"
        )

    def _bring_back_metrics(self, path: Path) -> None:
        """Make the run's metrics what they were at a checkpoint; steps after it will be trained, and told, again."""
        kept = path / METRICS
        if dist.get_rank() != 0 or not kept.exists():
            return
        there, wanted = self.metrics.read_bytes() if self.metrics.exists() else b"", kept.read_bytes()
        if not there.startswith(wanted):
            warn(f"{self.metrics} is damaged and was replaced by {kept}")
        if there != wanted:
            write_aside(self.metrics, wanted)

    def load(self, strategy: MegatronStrategy, path: Path, identity: dict) -> dict:
        """Restore model and optimizer under the present layout; returns `extra`.

        Every rank calls it; collectives: Megatron's own.

        Raises UserError when the checkpoint is another run's (training.identity), of the other kind of optimizer, or
        damaged.
        """
        extra = json.loads((path / "extra.json").read_text())
        check_same(extra["identity"], identity, path)
        written, here = extra["distributed_optimizer"], strategy.ddp_config.use_distributed_optimizer
        if written != here:  # Megatron keeps the two kinds of optimizer state in different forms
            raise UserError(
                f"checkpoint {path} was written with layout.distributed_optimizer={str(written).lower()}, this run has "
                f"{str(here).lower()}: keep it as it was, or choose another run.folder"
            )
        for optimizer in _optimizers(strategy):
            if isinstance(optimizer, DistributedOptimizer):
                _allow_loading(optimizer)
        try:
            state = dist_checkpointing.load(_sharded(strategy, loading=True), str(path))
        except (Exception, CheckpointException) as error:  # torch's is a BaseException
            raise UserError(
                f"checkpoint {path} cannot be loaded: {error}\n"
                "remedy: delete that folder to continue from the checkpoint before it"
            ) from error
        for index, chunk in enumerate(strategy.megatron_parallel):
            unwrapped(chunk).load_state_dict(state[f"model_{index}"], strict=True)
        strategy.optimizers[0].load_state_dict(state["optimizer"])
        return extra


def _sharded(strategy: MegatronStrategy, loading: bool) -> dict:
    metadata = _metadata(strategy)
    chunks = [unwrapped(chunk) for chunk in strategy.megatron_parallel]
    state = {f"model_{i}": chunk.sharded_state_dict(metadata=metadata) for i, chunk in enumerate(chunks)}
    models = {key: value for key, value in state.items()}
    state["optimizer"] = strategy.optimizers[0].sharded_state_dict(models, is_loading=loading, metadata=metadata)
    return state


def _metadata(strategy: MegatronStrategy) -> dict:
    return strategy.sharded_state_dict_metadata


def unwrapped(module: torch.nn.Module) -> torch.nn.Module:
    """Megatron's own module inside Lightning's, DDP's and the precision's wrappers."""
    while hasattr(module, "module"):
        module = module.module
    return module


def _optimizers(strategy: MegatronStrategy) -> list:
    optimizer = strategy.optimizers[0].mcore_optimizer
    return optimizer.chained_optimizers if isinstance(optimizer, ChainedOptimizer) else [optimizer]


def _allow_loading(optimizer: DistributedOptimizer) -> None:
    """Let a distributed optimizer on torch's Adam (no Transformer Engine, no Apex) load its own checkpoint.

    Megatron-Core 0.14 to 0.19 reads a common `step` from Adam's state, which is empty before the first step; gives
    every parameter the same step tensor; and looks for a `step` that the fully reshardable format does not hold.
    """
    adam = optimizer.optimizer
    if not isinstance(adam, torch.optim.Adam):
        return
    for group in adam.param_groups:
        for param in group["params"]:
            zero = {"exp_avg": torch.zeros_like(param), "exp_avg_sq": torch.zeros_like(param)}
            adam.state.setdefault(param, {"step": torch.tensor(0.0), **zero})
    set_states = type(optimizer)._set_main_param_and_optimizer_states

    def set_states_and_step(model_param, tensors):
        group, order = optimizer.model_param_group_index_map[model_param]
        state = adam.state[adam.param_groups[group]["params"][order]]
        state["step"] = state["step"].clone()
        set_states(optimizer, model_param, {"step": state["step"], **tensors})

    optimizer._set_main_param_and_optimizer_states = set_states_and_step
