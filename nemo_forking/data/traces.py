"""The questions of a training step: a pure function of the prepared data, the seed and the step."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np

from nemo_forking.config.schema import INJECTIVE, Config
from nemo_forking.data.token_file import Question, TokenFile
from nemo_forking.errors import UserError

_ORDER, _DRAW = 0, 1  # what random words are used for; either has its own stream


def global_batch(
    file: TokenFile, *, seed: int, step: int, questions: int, tags: int, sample_down: bool
) -> list[Question]:
    """Return the questions of one step, the same list on every rank.

    Epoch e is a permutation drawn from (seed, e); step i takes items [i * questions, (i + 1) * questions) of all epochs
    laid end to end, so that no batch is short and a batch may span two epochs.

    Args:
        file: prepared data.
        seed: seed of the data order.
        step: 0-based step.
        questions: number Q of questions in a batch.
        tags: number N of tags; every trace of a question needs one of its own.
        sample_down: where a question has more traces than may be used, draw from them by (seed, step, question)
            instead of refusing; those drawn keep their order.

    Raises:
        UserError: a question has more traces than may be used, and `sample_down` is off.
    """
    batch = []
    for item in range(step * questions, (step + 1) * questions):
        epoch, place = divmod(item, len(file))
        question = file.question(int(epoch_order(len(file), seed, epoch)[place]))
        if len(question.traces) > tags:
            if not sample_down:
                raise UserError(
                    f"question {question.id!r} has {len(question.traces)} traces for {tags} tags; raise tags.count, "
                    "prepare with a smaller data.traces, or set data.sample_down=true"
                )
            question = _drawn(question, tags, seed, step)
        batch.append(question)
    return batch


def questions_of_step(config: Config, file: TokenFile, step: int) -> list[Question]:
    """The global batch of a configured run; raises UserError as `global_batch`."""
    # rules that share a tag can take all traces; where some are drawn, every rule draws the same
    limited = config.matching.rule in INJECTIVE or config.data.sample_down
    return global_batch(
        file,
        seed=config.run.seed,
        step=step,
        questions=config.batch.questions,
        tags=config.tags.count if limited else file.most_traces(),
        sample_down=config.data.sample_down,
    )


def visits(count: int, *, step: int, questions: int) -> list[int]:
    """How often each question of a step (from 0) was in a batch before: the epoch its item falls into."""
    return [item // count for item in range(step * questions, (step + 1) * questions)]


@lru_cache(maxsize=4)
def epoch_order(count: int, seed: int, epoch: int) -> np.ndarray:
    """The order of `count` items in an epoch, drawn from (seed, epoch)."""
    return np.argsort(_random_words(count, seed, _ORDER, epoch), kind="stable")


def _drawn(question: Question, limit: int, seed: int, step: int) -> Question:
    words = _random_words(len(question.traces), seed, _DRAW, step, question.index)
    kept = sorted(np.argsort(words, kind="stable")[:limit])
    return replace(question, traces=tuple(question.traces[j] for j in kept))


def _random_words(count: int, seed: int, use: int, *place: int) -> np.ndarray:
    """Raw Philox output, which, unlike numpy's permutation, is the same in every version of numpy."""
    counter = np.array([0, *place, 0, 0][:4], dtype=np.uint64)  # the first word counts on as output is drawn
    return np.random.Philox(key=np.array([seed, use], dtype=np.uint64), counter=counter).random_raw(count)
