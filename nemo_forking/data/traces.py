"""The questions of a training step: a pure function of the prepared data, the seed and the step."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np

from nemo_forking.data.token_file import Question, TokenFile
from nemo_forking.errors import UserError

_ORDER, _DRAW = 0, 1  # what random words are used for; either has its own stream


def global_batch(
    file: TokenFile, *, seed: int, step: int, questions: int, max_traces: int | None, tags: int, sample_down: bool
) -> list[Question]:
    """Return the questions of one step, the same list on every rank.

    Epoch e is a permutation drawn from (seed, e); step i takes items [i * questions, (i + 1) * questions) of all epochs
    laid end to end, so that no batch is short and a batch may span two epochs.

    Args:
        file: prepared data.
        seed: seed of the data order.
        step: 0-based step.
        questions: number Q of questions in a batch.
        max_traces: most traces of a question to use; None for as many as there are tags.
        tags: number N of tags; every trace of a question needs one of its own.
        sample_down: where a question has more traces than may be used, draw from them by (seed, step, question)
            instead of refusing; those drawn keep their order.

    Raises:
        UserError: a question has more traces than may be used, and `sample_down` is off.
    """
    limit = tags if max_traces is None else min(tags, max_traces)
    batch = []
    for item in range(step * questions, (step + 1) * questions):
        epoch, place = divmod(item, len(file))
        question = file.question(int(epoch_order(len(file), seed, epoch)[place]))
        if len(question.traces) > limit:
            if not sample_down:
                raise UserError(
                    f"question {question.id!r} has {len(question.traces)} traces for {tags} tags (at most {limit} are "
                    "used); raise tags.count, prepare with a smaller data.traces, or set data.sample_down=true"
                )
            question = _drawn(question, limit, seed, step)
        batch.append(question)
    return batch


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
