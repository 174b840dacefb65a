"""The set step (design section 3; the paper's algorithm): score every (tag, trace), match, train on the matched pairs.

Shape letters: Q questions, N tags, M traces (of the question with most), R rows, P pairs.
"""

import time
from dataclasses import dataclass, field, replace

import numpy as np
from torch import nn

from nemo_forking import pulse
from nemo_forking.config import Config
from nemo_forking.data.batches import Row
from nemo_forking.data.token_file import Question, TokenFile
from nemo_forking.data.traces import questions_of_step, visits
from nemo_forking.losses.normalise import token_weight
from nemo_forking.matching.assignment import assign
from nemo_forking.matching.exchange import match
from nemo_forking.matching.kept import Kept
from nemo_forking.matching.statistics import Statistics
from nemo_forking.plan.flops import step_flops
from nemo_forking.tags import Tags
from nemo_forking.training.passes import Pass, make_pass, pass_layout, score


@dataclass
class Matched:
    """What one set step decided, for logs and tests; cost_QNM is known on global rank 0 only."""

    questions: list[Question]
    sigma_QM: np.ndarray
    cost_QNM: np.ndarray | None
    statistics: dict
    tokens_scored: int  # a shared prompt once
    tokens_trained: int
    flops: float
    imbalance: float  # of the data-parallel ranks in training (Pass.imbalance), and in scoring; None where none was
    imbalance_scoring: float | None
    seconds: dict[str, float]


@dataclass
class Assignment:
    """What traces got which tags, and what finding it took; cost_QNM as in Matched, NaN where nothing was scored."""

    sigma_QM: np.ndarray
    cost_QNM: np.ndarray | None = None
    scored: list[Row] = field(default_factory=list)
    spared: list[int] = field(default_factory=list)  # lengths of shared prompts that rows did not read again
    imbalance: float | None = None
    seconds: float = 0.0  # of scoring


class SetStep:
    """Turns a step number into the micro-batches to train on; holds the statistics that go into checkpoints."""

    def __init__(self, config: Config, file: TokenFile, tags: Tags):
        self.config, self.file, self.tags = config, file, tags
        self.statistics = Statistics(tags.count, file.teachers)
        self.kept = Kept(config.matching.every)

    def __call__(self, chunks: list[nn.Module], step: int) -> tuple[Pass, Matched]:
        """Run the matching of optimizer step `step` (from 0) on the model's chunks of this rank.

        Collectives: Megatron's forward-only schedule, then one gather to global rank 0 and one broadcast over the
        world. Raises NonFiniteCost on every rank alike.
        """
        started = time.perf_counter()
        questions = questions_of_step(self.config, self.file, step)
        if self.config.matching.rule == "optimal":
            found = self._match(chunks, questions, step)
        else:
            found = Assignment(self._draw(questions, step))
        exchange = time.perf_counter() - started - found.seconds

        loss, sigma_QM = self.config.loss, found.sigma_QM
        pairs = training_rows(questions, sigma_QM, self.tags, loss.normalise, loss.include_tag)
        share = make_pass(pairs, pass_layout(self.config))
        matched = Matched(
            questions,
            sigma_QM,
            found.cost_QNM,
            self._count(questions, sigma_QM, found.cost_QNM),
            tokens_scored=sum(r.length for r in found.scored) - sum(found.spared),
            tokens_trained=sum(p.length for p in pairs),
            flops=step_flops(self.config.model, found.scored, pairs, found.spared),
            imbalance=share.imbalance,
            imbalance_scoring=found.imbalance,
            seconds={"scoring": found.seconds, "exchange": exchange},
        )
        return share, matched

    def _match(self, chunks: list[nn.Module], questions: list[Question], step: int) -> Assignment:
        """The assignment of least cost; questions that keep their tags are not scored."""
        started = time.perf_counter()
        sigma_QM, anew = _nothing(questions), []
        for q, visit in enumerate(visits(len(self.file), step=step, questions=len(questions))):
            kept = self.kept.tags(questions[q], visit)
            if kept is None:
                anew.append(q)
            else:
                sigma_QM[q, : len(kept)] = kept
        if not anew:
            return Assignment(sigma_QM)

        chosen, matching = [questions[q] for q in anew], self.config.matching
        rows = matching_rows(chosen, self.tags, matching.tokens, matching.include_tag)
        pulse.enter("scoring")
        losses = score(chunks, rows, pass_layout(self.config, without_gradient=True))
        scoring = time.perf_counter() - started
        pulse.enter("exchange")
        found_QM, cost_QNM = match(
            *losses[:3],
            rows_max=losses.rows_max,
            traces_Q=[len(q.traces) for q in chosen],
            n_tags=self.tags.count,
            keys=[self._key(step, q) for q in chosen],
            names=[q.id for q in chosen],
        )
        for q, question, found_M in zip(anew, chosen, found_QM, strict=True):
            sigma_QM[q, : len(found_M)] = found_M
            self.kept.keep(question, found_M[: len(question.traces)])
        if cost_QNM is not None and len(anew) < len(questions):
            cost_QNM = _among(cost_QNM, anew, sigma_QM.shape)
        return Assignment(sigma_QM, cost_QNM, rows, losses.spared, losses.imbalance, scoring)

    def _draw(self, questions: list[Question], step: int) -> np.ndarray:
        """sigma_QM of a rule that needs no cost: the same on every rank without asking."""
        matching, sigma_QM = self.config.matching, _nothing(questions)
        for q, question in enumerate(questions):
            sigma_QM[q, : len(question.traces)] = assign(
                matching.rule,
                None,
                n_tags=self.tags.count,
                n_traces=len(question.traces),
                key=self._key(step, question),
                teachers=[t.teacher for t in question.traces],
                fixed_by=matching.fixed_by,
                mixed_tag=matching.mixed_tag,
            )
        return sigma_QM

    def _key(self, step: int, question: Question) -> tuple[int | str, ...]:
        return (self.config.run.seed, step, question.id)

    def _count(self, questions: list[Question], sigma_QM, cost_QNM) -> dict:
        teacher_QM = np.full(sigma_QM.shape, -1, dtype=np.int64)
        for q, question in enumerate(questions):
            teacher_QM[q, : len(question.traces)] = [t.teacher for t in question.traces]
        return self.statistics.update([q.index for q in questions], sigma_QM, teacher_QM, cost_QNM)


def _nothing(questions: list[Question]) -> np.ndarray:
    """sigma_QM with no tag anywhere."""
    return np.full((len(questions), max(len(q.traces) for q in questions)), -1, dtype=np.int64)


def _among(found_QNM: np.ndarray, anew: list[int], shape: tuple[int, int]) -> np.ndarray:
    """Costs of some questions in the places they have among all: +inf where a trace is absent, NaN where unscored."""
    cost_QNM = np.full((shape[0], found_QNM.shape[1], shape[1]), np.nan)
    cost_QNM[anew] = np.inf
    cost_QNM[anew, :, : found_QNM.shape[2]] = found_QNM
    return cost_QNM


# ---------------------------------------------------------------- rows


def matching_rows(questions: list[Question], tags: Tags, tokens: int, include_tag: bool) -> list[Row]:
    """All R rows `prompt + tag + first `tokens` trace tokens`, in the order (question, tag, trace).

    Those of one question are a group, which may share its prompt (batch.share_prompts).
    """
    rows = []
    for group, question in enumerate(questions):
        for tag in tags.ids_NK:
            for trace in question.traces:
                rows.append(_row(question, tag, trace.ids[:tokens], include_tag, index=len(rows), group=group))
    return rows


def training_rows(questions: list[Question], sigma_QM, tags: Tags, normalise: str, include_tag: bool) -> list[Row]:
    """The P matched pairs with full traces, weighted so that the sum over all tokens is the loss; tag -1: no tag."""
    rows = []
    for question, sigma_M in zip(questions, sigma_QM, strict=True):
        for trace, tag in zip(question.traces, sigma_M, strict=False):  # sigma_M is padded
            ids = tags.ids_NK[tag] if tag >= 0 else ()
            rows.append(_row(question, ids, trace.ids, include_tag, index=len(rows)))
    weights_P = token_weight(np.array([r.counted for r in rows]), normalise, questions=len(questions))
    return [replace(row, weight=float(weight)) for row, weight in zip(rows, weights_P, strict=True)]


def _row(
    question: Question, tag: tuple[int, ...], trace: np.ndarray, include_tag: bool, index: int, group: int = -1
) -> Row:
    ids, prompt = np.concatenate([question.prompt, np.asarray(tag, dtype=np.int64), trace]), len(question.prompt)
    return Row(ids, first=prompt + (0 if include_tag else len(tag)), index=index, prompt=prompt, group=group)
