"""Runs of several lives: killed by a real SIGKILL of one rank after a step, finished, and what was trained in them."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch.distributed as dist

from nemo_forking.config import Config
from nemo_forking.training.launch import RankFailed
from tests.distributed.runs import run
from tests.run_files import assert_same_weights, lines, records

STEPS = 6
ADAM = {
    "optim.lr": 2e-2,
    "optim.min_lr": 1e-3,
    "optim.warmup_fraction": 0.3,
    "optim.weight_decay": 0.1,
    "optim.beta1": 0.9,
    "optim.beta2": 0.95,
    "optim.eps": 1e-3,
    "optim.clip_grad": 1.0,
    "trainer.max_steps": STEPS,
    "trainer.checkpoint_every": 1,
}


def kill(config: Config, after: int) -> None:
    """Train until `after` steps are done, then SIGKILL one rank, another one each time."""
    victim = str(after % config.layout.processes)
    write = note(config)

    def strike(record: dict) -> None:
        write(record)
        dist.barrier()  # let rank 0 write before another one's death ends it
        if record["step"] == after and os.environ["RANK"] == victim:
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(RankFailed, match=f"rank {victim} was ended by SIGKILL"):
        run(config, strike)


def finish(config: Config) -> Config:
    run(config, note(config))
    return config


def note(config: Config):
    """Rank 0 writes down what it trained, whatever becomes of it."""

    def write(record: dict) -> None:
        if os.environ["RANK"] == "0":
            matched = record["matched"]
            seen = {name: record[name] for name in ("step", "loss", "grad_norm", "lr", "change_rate", "tag_teacher")}
            seen |= {"questions": [q.id for q in matched.questions], "sigma_QM": matched.sigma_QM.tolist()}
            seen |= {"cost_QNM": None if matched.cost_QNM is None else matched.cost_QNM.tolist()}
            with open(Path(config.run.folder) / "trained.jsonl", "a") as file:
                file.write(json.dumps(seen) + "\n")

    return write


def trained(config: Config) -> list[dict]:
    """What rank 0 trained in all lives, in order."""
    return lines(Path(config.run.folder) / "trained.jsonl")


def model(config: Config) -> Path:
    """The exported model's folder."""
    return Path(config.run.folder) / "model"


def assert_same(config: Config, whole: Config) -> None:
    """Bit for bit: what metrics.jsonl tells of the steps, and the exported weights."""
    assert records(config.run.folder) == records(whole.run.folder)
    assert_same_weights(model(config), model(whole))
