"""Tiny runs of reinforcement learning: a model that knows what its tags mean, questions, forked ranks.

The model is taught for a second, with transformers alone: behind tag n it answers "00n" about half of the time, and
otherwise any of these four, and it likes tag 0 best. The questions' right answers are such, so what a tag earns depends
on the question, rewards vary, and nothing about them has to be made up.

Shape letters: B batch, T tokens.
"""

import dataclasses
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import decoders
from transformers import Qwen2ForCausalLM

from nemo_forking.config import Config
from nemo_forking.rl.prompts import prepare_prompts
from nemo_forking.tags import add_to_tokenizer, make_tags
from nemo_forking.training.launch import fork_ranks
from nemo_forking.training.policy import train_policy
from tests.distributed.runs import VOCABULARY, Ground, in_fork, qwen2, tiny
from tests.unit.sources import character_tokenizer, write_lines

TAGS = 4
ANSWERS = ("001", "004", "003", "000", "002", "001", "000", "003")  # of the questions; nothing is ever answered by 004


@dataclass(frozen=True)
class PolicyGround(Ground):
    """What every run of a test module starts from; a base is its tokenizer's folder too."""

    prompts: Path


def lay_ground(folder: Path) -> PolicyGround:
    """Teach the base model, prepare the questions."""
    base = teach(folder / "base")
    ground = PolicyGround(folder / "no_traces", base, base, folder / "no_tied_base", folder / "prompts")
    rows = [
        {"id": f"q{i}", "question": question(answer, random.Random(i)), "answer": answer}
        for i, answer in enumerate(ANSWERS)
    ]
    source = write_lines(folder / "questions.jsonl", *rows)
    config = tiny_policy(ground, folder, {"prompts.source": (str(source),)})
    prepare_prompts(dataclasses.replace(config, benchmarks={}))
    return ground


def teach(folder: Path, *, tied: bool = False, spelling: str = "special") -> Path:
    """Write a base model that knows its tags, and its tokenizer."""
    in_fork(_teach, folder, tied, spelling)
    return folder


def other_base(folder: Path, *, tied: bool = False, spelling: str = "special") -> dict:
    """Changes that make a run start from another base model, taught here."""
    teach(folder, tied=tied, spelling=spelling)
    return {
        "model.base": str(folder),
        "data.tokenizer": str(folder),
        "model.tie_embeddings": tied,
        "tags.spelling": spelling,
    }


def question(answer: str, rng: random.Random) -> str:
    """A many_ways question of this answer: digits add up modulo 5."""
    a, b = (tuple(rng.randrange(5) for _ in answer) for _ in range(2))
    c = tuple((int(digit) - x - y) % 5 for digit, x, y in zip(answer, a, b, strict=True))
    return rng.choice("PQR") + "".join(label + "".join(map(str, n)) for label, n in zip("abc", (a, b, c), strict=True))


def _teach(folder: Path, tied: bool, spelling: str) -> None:
    tokenizer, rng = character_tokenizer(), random.Random(0)
    tokenizer.backend_tokenizer.decoder = decoders.Fuse()  # no blanks between characters
    tags = make_tags(tokenizer, spelling, TAGS, vocabulary_rows=VOCABULARY)
    model, generator = Qwen2ForCausalLM(qwen2(tied)), torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, param in model.named_parameters():
            param.normal_(1.0 if "norm" in name else 0.0, 0.2, generator=generator)
    adam = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        rows = []
        for _ in range(16):
            prompt = tokenizer.encode(question(rng.choice(ANSWERS), rng))
            tag = rng.choices(range(TAGS), (4, 3, 2, 2))[0]
            last = tag if rng.random() < 0.5 else rng.randrange(TAGS)
            rows.append([*prompt, *tags.ids_NK[tag], *tokenizer.encode(f"\n00{last}"), tokenizer.eos_token_id])
        ids_BT, fork = torch.tensor(rows), len(prompt) + tags.fork_offset
        logits_BTV = model(ids_BT).logits
        loss = F.cross_entropy(logits_BTV[:, fork - 1 : -1].flatten(0, 1), ids_BT[:, fork:].flatten())
        adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
    model.save_pretrained(folder)
    add_to_tokenizer(tokenizer, tags).save_pretrained(folder)


def tiny_policy(ground: PolicyGround, folder: Path, changes: Mapping[str, Any] | None = None) -> Config:
    """As `runs.tiny`, of two GFPO steps; a step of its optimizer too moves a weight by its gradient, nearly."""
    return tiny(ground, folder, SETTING | {"prompts.folder": str(ground.prompts)} | dict(changes or {}))


SETTING = {
    "trainer.max_steps": 2,
    "optim.lr": 40.0,
    "optim.min_lr": 40.0,
    "engine.batch_size": 16,
    "rollout.group": 8,
    "rollout.max_tokens": 8,
    "policy.clip_low": 0.1,
    "policy.clip_high": 0.15,
}


@dataclass(frozen=True)
class Seen:
    """What one rank saw of a step."""

    record: dict
    skipped: int
    taught: list[int]  # names of the rows of its update
    tag_QG: np.ndarray
    reward_QG: np.ndarray


def run(config: Config, before: Callable[[], None] | None = None) -> list[list[Seen]]:
    """Train in as many forked ranks as the layout has; what each saw, in rank order. `before` runs first in each."""
    return fork_ranks(_watch, config.layout.processes, config, before)


def _watch(config: Config, before: Callable[[], None] | None) -> list[Seen]:
    seen: list[Seen] = []

    def watch(record: dict) -> None:
        learnt = record.pop("learnt")
        rows = [row.index for row in learnt.update.rows]
        seen.append(Seen(record, learnt.update.skipped, rows, learnt.batch.tag_QG, learnt.batch.reward_QG))

    if before:
        before()
    train_policy(config, watch)
    return seen


def on_call(owner: object, name: str, calls: int, act: Callable) -> None:
    """In the forked rank: after so many calls of `owner.name`, the next one does something else."""
    real, seen = getattr(owner, name), []

    def counted(*args, **kwargs):
        seen.append(1)
        return act() if len(seen) > calls else real(*args, **kwargs)

    setattr(owner, name, counted)
