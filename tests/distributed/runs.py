"""Tiny training runs for the distributed tests: real prepared data, a base written by transformers, forked ranks.

NeMo is imported here, once for all tests of a session; a run then costs the fork and its steps.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from nemo_forking.config import Config, build, load
from nemo_forking.config.load import plain_values
from nemo_forking.data.folders import written_aside
from nemo_forking.data.token_file import MANIFEST, TokenFileWriter
from nemo_forking.training.launch import fork_ranks
from nemo_forking.training.trainer import train
from tests.run_files import lines
from tests.unit.shapes import qwen2_config
from tests.unit.sources import character_tokenizer

VOCABULARY = 112  # 98 ids of the character tokenizer, then spare rows for the tags
MODEL = {
    "base": None,
    "num_layers": 4,
    "hidden_size": 32,
    "ffn_hidden_size": 48,
    "num_attention_heads": 4,
    "num_query_groups": 2,
    "head_dim": None,
    "vocab_size": VOCABULARY,
    "rope_theta": 1e4,
    "norm_eps": 1e-6,
    "tie_embeddings": False,
    "max_length": 64,
    "init_std": 0.2,
    "precision": "fp32",
}

ONE = {"layout.devices": 1}
DATA = {"layout.devices": 2}
TENSOR = DATA | {"layout.tensor": 2}
PIPELINE = DATA | {"layout.pipeline": 2}


@dataclass(frozen=True)
class Ground:
    """What every run of a test module starts from; paths only, so that forked ranks read the same files."""

    data: Path
    tokenizer: Path
    base: Path
    tied_base: Path


def lay_ground(folder: Path, questions: int = 8) -> Ground:
    """Write the tokenizer, the prepared data and two base models (untied, tied)."""
    character_tokenizer().save_pretrained(folder / "tokenizer")
    return Ground(
        prepare(folder / "data", questions),
        folder / "tokenizer",
        write_base(folder / "base", tied=False),
        write_base(folder / "tied_base", tied=True),
    )


def prepare(folder: Path, questions: int, traces: tuple[int, ...] = (3, 1, 2, 4), longest: int = 24) -> Path:
    """A prepared folder of random text: prompts of 4 to 9 ids, traces of 3 to `longest`, their number in turn."""
    random = np.random.default_rng(7)
    with written_aside(folder, MANIFEST) as aside, TokenFileWriter(aside) as writer:
        for number in range(questions):
            count = traces[number % len(traces)]
            teachers = random.permutation(["ann", "bob", "cat", "dan"])[:count]
            targets = [random.integers(0, 95, random.integers(3, longest + 1)) for _ in teachers]
            writer.add(
                f"q{number}", random.integers(0, 95, random.integers(4, 10)), list(zip(teachers, targets, strict=True))
            )
        writer.finish({"sources": "random"})
    return folder


def write_base(folder: Path, *, tied: bool, change: Callable[[dict], None] | None = None) -> Path:
    """A Qwen2 in Hugging Face format, every weight random (biases and norms too) and large enough to tell runs apart.

    `change` may spoil the state dict before it is saved.
    """
    model = Qwen2ForCausalLM(qwen2(tied))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, param in model.named_parameters():
            param.normal_(1.0 if "norm" in name else 0.0, 0.3, generator=generator)
    state = dict(model.state_dict())
    if tied:
        del state["lm_head.weight"]
    if change:
        change(state)
    model.save_pretrained(folder, state_dict=state)
    return folder


def qwen2(tied: bool) -> Qwen2Config:
    """The shape of MODEL in transformers' words."""
    return qwen2_config(
        SimpleNamespace(**MODEL | {"tie_embeddings": tied}),
        rope_theta=MODEL["rope_theta"],
        rms_norm_eps=MODEL["norm_eps"],
        max_position_embeddings=MODEL["max_length"],
        bos_token_id=None,
        eos_token_id=None,
    )


def tiny(ground: Ground, folder: Path, changes: Mapping[str, Any] | None = None) -> Config:
    """A checked configuration of one process and one step; `changes` are dotted keys ("layout.tensor": 2).

    The optimizer is Adam with an epsilon so large that a step moves a weight by its gradient, nearly: what is
    exported after a step shows the gradient of every parameter (see reference.adam).
    """
    laptop = plain_values(load(["experiment=tiny"]))
    values = {
        "run": {"name": "tiny", "folder": str(folder), "seed": 1},
        "model": MODEL | {"base": str(ground.base)},
        "layout": {
            "accelerator": "cpu",
            "nodes": 1,
            "devices": 1,
            "tensor": 1,
            "pipeline": 1,
            "virtual_pipeline": None,
            "context": 1,
            "sequence_parallel": False,
            "recompute": "none",
            "distributed_optimizer": True,
            "overlap_grad_reduce": False,
            "overlap_param_gather": False,
        },
        "tags": {"spelling": "special", "count": 4, "noise": 0.5, "seed": 0},
        "data": {
            "folder": str(ground.data),
            "tokenizer": str(ground.tokenizer),
            "prompt": "{question}",
            "max_length": 48,
            "traces": 4,
        },
        "batch": {
            "questions": 4,
            "packing": True,
            "tokens": 64,
            "micro_batch_size": 2,
            "match_tokens": 128,
            "match_micro_batch_size": 4,
        },
        "matching": {"rule": "optimal", "tokens": 10, "include_tag": False, "fixed_by": "order", "mixed_tag": 0},
        "loss": {"normalise": "token", "include_tag": True, "chunk": 16},
        "optim": {
            "lr": 1000.0,
            "min_lr": 1000.0,
            "body_lr": 1.0,
            "warmup_fraction": 0.0,
            "weight_decay": 0.0,
            "beta1": 0.0,
            "beta2": 0.0,
            "eps": 1000.0,
            "clip_grad": 0.0,
        },
        "trainer": {
            "max_steps": 1,
            "checkpoint_every": 100,
            "keep_last": 2,
            "log_every": 100,
            "hang_minutes": 5.0,  # a test that would hang fails, with all stacks
        },
        **{block: laptop[block] for block in ("engine", "benchmarks", "evaluation", "prompts", "rollout", "policy")},
        "study": None,
    }
    for key, value in (changes or {}).items():
        block, name = key.split(".")
        values[block][name] = value
    return build(values)


@dataclass(frozen=True)
class Step:
    """What one rank saw of a step."""

    step: int
    loss: float
    grad_norm: float
    change_rate: float | None
    questions: list[str]
    sigma_QM: np.ndarray
    cost_QNM: np.ndarray | None  # on rank 0


def run(config: Config, after_step: Callable[[dict], None] | None = None) -> list[list[Step]]:
    """Train in as many forked ranks as the layout has; what each saw, in rank order."""
    return fork_ranks(_watch, config.layout.processes, config, after_step)


def _watch(config: Config, after_step: Callable[[dict], None] | None) -> list[Step]:
    steps: list[Step] = []

    def watch(record: dict) -> None:
        matched = record["matched"]
        steps.append(
            Step(
                record["step"],
                record["loss"],
                record["grad_norm"],
                record["change_rate"],
                [q.id for q in matched.questions],
                matched.sigma_QM,
                matched.cost_QNM,
            )
        )
        if after_step:
            after_step(record)

    train(config, watch)
    return steps


def errors(config: Config) -> list[tuple[str, str]]:
    """Train in forked ranks that are each expected to raise; (type, message) of each one's exception."""
    return fork_ranks(error_of, config.layout.processes, config)


def error_of(config: Config) -> tuple[str, str]:
    """In a forked rank: (type, message) of what training raises."""
    try:
        train(config)
    except Exception as error:  # noqa: BLE001 - the test looks at it
        return type(error).__name__, str(error)
    return "", "no error"


def in_fork(function: Callable, *args: Any) -> Any:
    """function(*args) in a process of its own: no backward pass runs in the process that forks the ranks."""
    return fork_ranks(function, 1, *args)[0]


def metrics(config: Config) -> list[dict]:
    """The lines of a run's metrics.jsonl."""
    return lines(Path(config.run.folder) / "metrics.jsonl")


def left_behind(config: Config) -> list[str]:
    """Names in the run folder that a run which failed at once should not have left."""
    folder = Path(config.run.folder)
    return sorted(p.name for p in folder.iterdir() if p.name in ("checkpoints", "model", ".model.partial"))
