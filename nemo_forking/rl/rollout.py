"""Rollouts of one policy step: a tag for every sample, completions from an engine, rewards from a grader.

A step's rollouts are a measurement's folder (`evaluation.folder`): a kill costs what is in flight, and what was
completed or graded is never done again.

Shape letters: Q questions, N tags, G rollouts of a question.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from nemo_forking.engines import Engine
from nemo_forking.evaluation.grading import grade_samples
from nemo_forking.evaluation.sampling import SamplingSettings, TagChoice, draw_samples
from nemo_forking.rewards import Grader
from nemo_forking.tags import Tags

Overlong = Literal["wrong", "graded", "masked"]


@dataclass(frozen=True)
class Rollouts:
    """What came of a step's samples, G a question.

    Attributes:
        tag_QG: the tag each was drawn under.
        reward_QG: 1 for a correct answer, else 0.
        counted_QG: False where a sample is left out of its group (an overlong one, when those are masked).
        tokens_QG: their lengths.
        cut_QG: True where a sample ran into its longest length.
    """

    tag_QG: np.ndarray
    reward_QG: np.ndarray
    counted_QG: np.ndarray
    tokens_QG: np.ndarray
    cut_QG: np.ndarray


def draw_tags(logprob_QN: np.ndarray, group: int, questions: Sequence[str], *, seed: int, step: int) -> np.ndarray:
    """G tags a question from the policy's distribution over the tags, a pure function of (seed, step, question id).

    Args:
        logprob_QN: log-probabilities in nats; they are normalised over the tags.
        group: G.
        questions: their ids.
        seed: of the run.
        step: of the run.

    Returns:
        tag_QG, int64.
    """
    tag_QG = np.empty((len(questions), group), dtype=np.int64)
    for row, (question, logprob_N) in enumerate(zip(questions, logprob_QN, strict=True)):
        share_N = np.exp(logprob_N - logprob_N.max())
        key = int.from_bytes(hashlib.sha256(f"{seed}/{step}/{question}".encode()).digest()[:16], "big")
        uniform_G = np.random.Generator(np.random.Philox(key=key)).random(group)
        cumulative_N = share_N.cumsum() / share_N.sum()
        tag_QG[row] = np.minimum(np.searchsorted(cumulative_N, uniform_G, side="right"), len(share_N) - 1)
    return tag_QG


def every_tag(questions: int, n_tags: int, group: int) -> np.ndarray:
    """All tags in turn, the same for every question: tag_QG with G a multiple of N."""
    if group % n_tags:
        raise ValueError(f"{group} rollouts a question are no multiple of {n_tags} tags")
    return np.tile(np.arange(n_tags), (questions, group // n_tags))


def roll_out(
    open_engine: Callable[[], Engine],
    open_grader: Callable[[], Grader],
    prompts: Mapping[str, Sequence[int]],
    gold: Mapping[str, object],
    tags: Tags,
    tag_QG: np.ndarray,
    settings: SamplingSettings,
    decode: Callable[[list[int]], str],
    folder: Path,
    *,
    overlong: Overlong = "wrong",
    identity: Mapping | None = None,
    progress: str | None = None,
) -> Rollouts:
    """Completes and grades one sample for every question and tag given.

    Args:
        open_engine: gives what completes `prompt + tag`; called only where samples are missing.
        open_grader: gives what judges them.
        prompts: question id -> prompt ids without a tag.
        gold: question id -> what the grader compares with.
        tags: the tags.
        tag_QG: tag of every sample, questions in the order of `prompts`.
        settings: how completions are drawn; one round, with a seed of the step's own.
        decode: ids to text.
        folder: the step's own.
        overlong: a sample cut off at its longest length is wrong, graded as it stands, or left out.
        identity: what else the samples depend on (the policy's weights).
        progress: label of the progress bars; None shows none.

    Raises:
        UserError: the folder holds other rollouts, or engine or grader cannot work.
    """
    group = tag_QG.shape[1]
    given = {(q, g, 0): int(tag_QG[row, g]) for row, q in enumerate(prompts) for g in range(group)}
    samples = draw_samples(
        open_engine,
        prompts,
        TagChoice("given", group, tags, given=given),
        settings,
        decode,
        folder,
        identity=identity,
        keep_ids=True,
        progress=progress,
    )
    verdicts = grade_samples(open_grader, gold, folder, progress=progress and f"{progress}, grading")
    right = np.array([line["verdict"] == "correct" for line in verdicts]).reshape(tag_QG.shape)
    cut = np.array([sample["finish"] == "length" for sample in samples]).reshape(tag_QG.shape)
    return Rollouts(
        tag_QG,
        reward_QG=(right & ~(cut if overlong == "wrong" else np.zeros_like(cut))).astype(np.float64),
        counted_QG=~cut if overlong == "masked" else np.ones_like(cut),
        tokens_QG=np.array([sample["tokens"] for sample in samples]).reshape(tag_QG.shape),
        cut_QG=cut,
    )
