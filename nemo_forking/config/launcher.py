"""How jobs are started: here, one after the other, or by Slurm (docs/cluster.md)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nemo_forking.config.fields import key


@dataclass(frozen=True)
class LauncherConfig:
    """What a job needs besides its recipe's settings; all but `kind` is read by Slurm jobs only."""

    kind: Literal["local", "slurm"] = key("jobs of recipes/reproduce.py: on this machine, or submitted to Slurm")
    partition: str | None = key("Slurm partition; null for the cluster's default")
    account: str | None = key("Slurm account; null for the user's default")
    qos: str | None = key("Slurm quality of service; null for the default")
    time: str = key("time limit of one job, as sbatch takes it; a job that reaches it is requeued and goes on")
    notice_seconds: int = key("signal to save and stop, this long before the time limit", at_least=1)
    requeue: bool = key("a job that was stopped, pre-empted or lost a node is started again")
    container: str | None = key("image for pyxis (enroot); null for a plain environment")
    mounts: tuple[str, ...] = key("folders the container sees, each here:there")
    venv: str | None = key("virtual environment of a plain job; null for the python on PATH")
    extra: tuple[str, ...] = key("more options of sbatch, each as --name=value")
    serving_nodes: int = key("nodes of vLLM replicas beside GFPO's trainer, or of an evaluation", at_least=1)
    free_gib: float = key("space that the run folder's disk must have free before a job starts, GiB", at_least=0)
