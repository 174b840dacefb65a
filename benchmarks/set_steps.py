"""The steps that benchmarks/set_step.py times, and the count of their operations.

Shape letters: Q questions, N tags, M traces of a question.
"""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer
from torch import nn

from benchmarks.steps import forward_backward, last_tags, packs, weighted_nll, with_main_gradients
from nemo_forking.config.schema import ModelConfig
from nemo_forking.data.batches import Row
from nemo_forking.data.token_file import Question, Trace
from nemo_forking.matching.exchange import match
from nemo_forking.plan.flops import forward_flops, head_flops, step_flops
from nemo_forking.tags import Tags
from nemo_forking.training.passes import make_pass, score
from nemo_forking.training.step import matching_rows, training_rows

if TYPE_CHECKING:
    from benchmarks.set_step import Settings

FORWARDS = {"none": 3, "full": 4}  # of the layers, that training's work comes to, by recompute


@dataclass(frozen=True)
class Batch:
    """What both steps learn from.

    Attributes:
        questions: random tokens, all of the same lengths.
        tags: the last rows of the vocabulary.
        prefix: tokens of a trace that are scored.
        fixed_QM: the plain step's tags.
        scored, trained: rows of the matching pass, and of training.
    """

    questions: list[Question]
    tags: Tags
    prefix: int
    fixed_QM: np.ndarray
    scored: list[Row]
    trained: list[Row]


def random_batch(s: "Settings") -> Batch:
    """Questions of random tokens, and the rows that the set step and the plain one make of them."""
    tags = last_tags(s.vocabulary, s.tags)
    tokens = partial(np.random.default_rng(s.seed).integers, 0, min(tags.fork_ids))
    questions = [
        Question(q, f"q{q}", tokens(s.prompt), tuple(Trace(tokens(s.trace), teacher=m) for m in range(s.traces)))
        for q in range(s.questions)
    ]
    fixed_QM = np.tile(np.arange(s.traces), (s.questions, 1))
    scored = matching_rows(questions, tags, s.prefix, include_tag=False)
    return Batch(questions, tags, s.prefix, fixed_QM, scored, _trained(questions, fixed_QM, tags))


def _trained(questions: list[Question], sigma_QM: np.ndarray, tags: Tags) -> list[Row]:
    return training_rows(questions, sigma_QM, tags, "token", include_tag=False)


class Steps:
    """Both steps of one model. The learning rate is 0: Adam does all its work, and every step finds the same weights.

    Args:
        model: the Megatron model.
        batch: what is learnt from.
        settings: the sizes of the packs.
    """

    def __init__(self, model: nn.Module, batch: Batch, settings: "Settings"):
        self.model, self.batch, self.tags = model, batch, batch.tags
        self.train_layout, self.match_layout = packs(settings.pack), packs(settings.match_pack)
        self.wrapped = with_main_gradients(model)
        self.optimizer = get_megatron_optimizer(
            OptimizerConfig(
                optimizer="adam",
                lr=0.0,
                bf16=model.config.bf16,
                params_dtype=model.config.params_dtype,
                clip_grad=1.0,
            ),
            [self.wrapped],
        )

    def plain(self, recompute: str) -> float:
        """Train under fixed tags; the loss."""
        loss = self.train(self.batch.fixed_QM, recompute)
        self.update()
        return loss

    def set(self, recompute: str) -> float:
        """Score every tag and trace, match, train the matched pairs; the loss."""
        loss = self.train(self.match(), recompute)
        self.update()
        return loss

    def match(self) -> np.ndarray:
        """sigma_QM of the least cost."""
        questions, tags = self.batch.questions, self.tags
        scored = matching_rows(questions, tags, self.batch.prefix, include_tag=False)
        losses = score([self.model], scored, self.match_layout)
        sigma_QM, _ = match(
            *losses[:3],
            rows_max=losses.rows_max,
            traces_Q=[len(question.traces) for question in questions],
            n_tags=tags.count,
            keys=[(0, 0, question.id) for question in questions],
        )
        return sigma_QM

    def train(self, sigma_QM: np.ndarray, recompute: str) -> float:
        """Forward and backward over the matched pairs; the loss."""
        self.wrapped.zero_grad_buffer()
        self.optimizer.zero_grad()  # its step left the buffers in .grad, where new gradients would count twice
        share = make_pass(_trained(self.batch.questions, sigma_QM, self.tags), self.train_layout)
        return float(torch.stack(forward_backward(self.model, share, weighted_nll, recompute)).sum())

    def update(self) -> None:
        """Clip and step."""
        self.optimizer.step()


# ---------------------------------------------------------------- the count


@dataclass(frozen=True)
class Work:
    """Additions and multiplications of one step.

    Attributes:
        matching: of the matching pass.
        training: of training, by recompute: the head's logits are computed again in any case.
        model: of training as the mathematics needs it (plan/flops.py).
        tokens_scored, tokens_trained: that the two passes read.
    """

    matching: float
    training: dict[str, float]
    model: float
    tokens_scored: int
    tokens_trained: int


def count(model: ModelConfig, batch: Batch) -> Work:
    """The work of a set step: the plain one's is its training."""
    head = sum(head_flops(model, one) for one in batch.trained)
    layers = sum(forward_flops(model, one) for one in batch.trained) - head
    return Work(
        matching=step_flops(model, batch.scored, []),
        training={recompute: forwards * layers + 4 * head for recompute, forwards in FORWARDS.items()},
        model=step_flops(model, [], batch.trained),
        tokens_scored=sum(one.length for one in batch.scored),
        tokens_trained=sum(one.length for one in batch.trained),
    )
