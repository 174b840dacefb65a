"""Two systems on the same questions: the difference, its error, and whether chance alone would show as much.

Questions differ in difficulty far more than systems do, so the two are compared question by question: a paired
difference has a much smaller error than the difference of two means (30 questions of AIME need it).

Shape letters: Q questions, P sums of signed differences.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from nemo_forking.errors import UserError
from nemo_forking.evaluation import estimators
from nemo_forking.evaluation.metrics import per_question
from nemo_forking.evaluation.table import SampleTable, tabulate

EXACT_UP_TO = 36  # questions that differ; two lists of 2^18 sums then
DRAWS = 20_000  # of signs, where there are more
SHOWN = 5  # questions named in an error
ROUNDING = 1e-9  # sums of the same differences in another order are equal


def compare(
    samples_a: Sequence[dict], samples_b: Sequence[dict], n_slots: int, metric: str = "pass@1", *, seed: int = 0
) -> dict[str, Any]:
    """How much better system a is than b on one metric of `metrics.per_question`, as fractions.

    Args:
        samples_a: the joined samples of one system (see `sampling`).
        samples_b: those of the other, on the same questions.
        n_slots: samples of a question in one round, of both systems.
        metric: "pass@1", "cons@N", "pass@N" or "cons@32".
        seed: of the bootstrap and of the signs drawn.

    Returns:
        a, b: the two means; difference: a - b; standard_error: of the paired differences; interval_95: percentile
        bootstrap over questions; p_value: of a paired sign-flip test, two-sided; p_value_exact: whether it enumerates
        all signs; questions; better, worse: on how many questions a is.

    Raises:
        UserError: the questions or their right answers differ, or the metric is not one both systems have.
    """
    tables = [tabulate(samples, n_slots) for samples in (samples_a, samples_b)]
    check_same_questions(samples_a, samples_b)
    value_aQ, value_bQ = (_values(table, metric) for table in tables)
    place = {question: row for row, question in enumerate(tables[1].questions)}
    value_bQ = value_bQ[[place[question] for question in tables[0].questions]]
    difference_Q = value_aQ - value_bQ
    weight_BQ = estimators.resample(len(difference_Q), seed)
    p_value, exact = sign_flip_p_value(difference_Q, seed)
    return {
        "a": float(value_aQ.mean()),
        "b": float(value_bQ.mean()),
        "difference": float(difference_Q.mean()),
        "standard_error": estimators.standard_error(difference_Q),
        "interval_95": estimators.interval(estimators.resampled_mean(weight_BQ, difference_Q)),
        "p_value": p_value,
        "p_value_exact": exact,
        "questions": len(difference_Q),
        "better": int((difference_Q > ROUNDING).sum()),
        "worse": int((difference_Q < -ROUNDING).sum()),
    }


def check_same_questions(samples_a: Sequence[dict], samples_b: Sequence[dict]) -> None:
    """Raises UserError where the questions of two systems, or their right answers, differ."""
    gold_a, gold_b = ({one["question"]: one.get("gold") for one in samples} for samples in (samples_a, samples_b))
    only = {"first": gold_a.keys() - gold_b.keys(), "second": gold_b.keys() - gold_a.keys()}
    if lacking := [f"only the {name} has {_named(questions)}" for name, questions in only.items() if questions]:
        raise UserError(f"the two systems were measured on different questions: {'; '.join(lacking)}")
    if other := [question for question, gold in gold_a.items() if gold != gold_b[question]]:
        raise UserError(f"the two systems were measured against different right answers: {_named(other)}")


def sign_flip_p_value(difference_Q: np.ndarray, seed: int = 0) -> tuple[float, bool]:
    """Chance of a sum as far from zero if each difference had either sign with equal chance, and whether it is exact.

    Were the systems alike, swapping their names on any question would change nothing: that is all the test assumes.
    All signs are enumerated where at most `EXACT_UP_TO` questions differ, else `DRAWS` are drawn.
    """
    size_Q = np.abs(difference_Q[np.abs(difference_Q) > ROUNDING])
    observed = abs(difference_Q.sum()) - ROUNDING
    if len(size_Q) > EXACT_UP_TO:
        rng = np.random.default_rng(seed)
        blocks = [rng.choice([-1.0, 1.0], (1000, len(size_Q))) @ size_Q for _ in range(DRAWS // 1000)]
        hits = int((np.abs(np.concatenate(blocks)) >= observed).sum())
        return (1 + hits) / (1 + DRAWS), False  # the observed signs are one draw
    # Every sum of all is a sum of the one half plus a sum of the other; sums are symmetric about zero.
    half = len(size_Q) // 2
    left_P, right_P = _sums(size_Q[:half]), np.sort(_sums(size_Q[half:]))
    at_least = int((len(right_P) - np.searchsorted(right_P, observed - left_P, side="left")).sum())
    return min(1.0, 2 * at_least / (len(left_P) * len(right_P))), True


def _sums(size_Q: np.ndarray) -> np.ndarray:
    """The sum of the sizes under every choice of signs, `[2^Q]`."""
    sum_P = np.zeros(1)
    for size in size_Q:
        sum_P = np.concatenate([sum_P - size, sum_P + size])
    return sum_P


def _values(table: SampleTable, metric: str) -> np.ndarray:
    values = per_question(table)
    if values.get(metric) is None:
        measured = ", ".join(name for name, value_Q in values.items() if value_Q is not None)
        raise UserError(f"{metric} cannot be compared; these samples have {measured}")
    return values[metric]


def _named(questions: Iterable[str]) -> str:
    questions = sorted(questions)
    more = f" and {len(questions) - SHOWN} more" if len(questions) > SHOWN else ""
    return ", ".join(questions[:SHOWN]) + more
