"""Which tag each trace of a question is trained under (paper sections 1 and 2; design 3.4).

Shape letters: Q questions, N tags, M traces.

Costs are nats per token, lower is better; a column of +inf marks an absent trace. An assignment sigma_M holds the tag
index of every trace, -1 where the trace is absent or trained without a tag. Everything here is a pure function of its
arguments, the same on every platform: numpy's Philox bit stream and scipy's solver (additions and comparisons only).
"""

import hashlib
from collections.abc import Sequence
from difflib import get_close_matches

import numpy as np
from scipy.optimize import linear_sum_assignment

from nemo_forking.errors import UserError

RULES = ("optimal", "random", "fixed", "mixed", "none")
NO_TAG = -1

Key = tuple[int | str, ...]
"""What the random choices of one question depend on: (seed, step, question id)."""


class NonFiniteCost(ArithmeticError):
    """The matching cost of a question is not a number, or infinite: the model has diverged or a row was lost."""

    def __init__(self, question: int, name: str = ""):
        super().__init__(question, name)
        self.question, self.name = question, name

    def __str__(self) -> str:
        name = f" (id {self.name!r})" if self.name else ""
        return (
            f"question {self.question} of the batch{name} has a matching cost that is NaN or infinite. "
            "The model has probably diverged: resume from an earlier checkpoint with a smaller optim.lr, and check "
            "this question's traces"
        )


def assign(
    rule: str,
    cost_NM: np.ndarray | None,
    *,
    n_tags: int,
    n_traces: int,
    key: Key,
    teachers: Sequence[int] | None = None,
    fixed_by: str = "order",
    mixed_tag: int = 0,
) -> np.ndarray:
    """Assign tags to the traces of one question.

    Args:
        rule: `optimal`, the injection of least total cost (SSFT); `random`, an injection drawn uniformly by `key`;
            `fixed`, the same tag always (see `fixed_by`); `mixed`, `mixed_tag` for every trace; `none`, no tag.
        cost_NM: needed by `optimal` only, as `solve` takes it.
        n_tags: N.
        n_traces: M, the number of this question's traces (for `optimal`, the columns of the cost).
        key: (seed, step, question id); decides `random`, and ties of `optimal`.
        teachers: index of every trace's teacher in the sorted list of all teachers; for `fixed_by="teacher"`.
        fixed_by: `order`, trace j gets tag j; `teacher`, teacher t gets tag t.
        mixed_tag: the one tag of `mixed`.

    Returns:
        sigma_M int64.

    Raises:
        UserError: an unknown rule, or one that cannot give every trace its own tag.
        NonFiniteCost: see `solve`.
    """
    if rule == "none":
        return np.full(n_traces, NO_TAG, np.int64)
    if rule == "mixed":
        if not 0 <= mixed_tag < n_tags:
            raise UserError(f"matching.mixed_tag is {mixed_tag}; it must be a tag index, 0 to {n_tags - 1}")
        return np.full(n_traces, mixed_tag, np.int64)
    if rule not in RULES:
        near = get_close_matches(rule, RULES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UserError(f"matching.rule is {rule!r}; it must be one of {', '.join(RULES)}{hint}")
    _check_room(n_traces, n_tags, key)
    if rule == "random":
        return permutation(n_tags, key)[:n_traces]
    if rule == "fixed":
        return _fixed(n_tags, n_traces, teachers, fixed_by, key)
    if cost_NM is None or np.shape(cost_NM) != (n_tags, n_traces):
        raise ValueError(f"optimal needs a cost of shape {(n_tags, n_traces)}, got {np.shape(cost_NM)}")
    return _optimal(np.asarray(cost_NM, np.float64), key, question=0)


def solve(cost_QNM: np.ndarray, keys: Sequence[Key], names: Sequence[str] | None = None) -> np.ndarray:
    """Solve every question's assignment for the least total cost.

    Among equally cheap assignments one is chosen by the key alone: tags and traces are put into an order drawn from
    Philox(key) before the solver sees them. So no tag is favoured for its index, which matters at the first steps,
    when the tags are nearly alike and whichever wins is pulled ahead.

    Args:
        cost_QNM: nats per token; an all-inf column is an absent trace.
        keys: one (seed, step, question id) per question.
        names: question ids for the error message.

    Returns:
        sigma_QM int64, -1 where the trace is absent.

    Raises:
        NonFiniteCost: a NaN, a -inf, an inf in a column that also has finite costs, or no trace at all.
        UserError: a question with more traces than tags.
    """
    cost_QNM = np.asarray(cost_QNM, np.float64)
    sigma_QM = np.full((cost_QNM.shape[0], cost_QNM.shape[2]), NO_TAG, np.int64)
    for q, (cost_NM, key) in enumerate(zip(cost_QNM, keys, strict=True)):
        sigma_QM[q] = _optimal(cost_NM, key, question=q, name=names[q] if names else "")
    return sigma_QM


def total_cost(cost_NM: np.ndarray, sigma_M: np.ndarray) -> float:
    """The cost of an assignment, summed over the traces that have a tag."""
    (traces,) = np.nonzero(np.asarray(sigma_M) >= 0)
    return float(np.asarray(cost_NM, np.float64)[np.asarray(sigma_M)[traces], traces].sum())


def permutation(n: int, key: Key) -> np.ndarray:
    """A uniform permutation of range(n) that is a pure function of `key`, on every platform and numpy version."""
    text = ",".join(repr(part) if isinstance(part, str) else str(int(part)) for part in key)
    digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
    bits = np.random.Philox(key=int.from_bytes(digest, "little"))
    return np.argsort(bits.random_raw(n), kind="stable").astype(np.int64)


def _optimal(cost_NM: np.ndarray, key: Key, question: int, name: str = "") -> np.ndarray:
    absent_M = np.isposinf(cost_NM).all(axis=0)
    (present,) = np.nonzero(~absent_M)
    if not present.size or not np.isfinite(cost_NM[:, present]).all():
        raise NonFiniteCost(question, name)
    n_tags, n_traces = len(cost_NM), len(present)
    _check_room(n_traces, n_tags, key)
    tags = permutation(n_tags, (*key, "tags"))
    traces = present[permutation(n_traces, (*key, "traces"))]
    row, column = linear_sum_assignment(cost_NM[np.ix_(tags, traces)])
    sigma_M = np.full(cost_NM.shape[1], NO_TAG, np.int64)
    sigma_M[traces[column]] = tags[row]
    return sigma_M


def _fixed(n_tags: int, n_traces: int, teachers: Sequence[int] | None, fixed_by: str, key: Key) -> np.ndarray:
    if fixed_by == "order":
        return np.arange(n_traces, dtype=np.int64)
    if fixed_by != "teacher":
        raise UserError(f"matching.fixed_by is {fixed_by!r}; it must be order or teacher")
    if teachers is None or len(teachers) != n_traces:
        raise ValueError(f"fixed_by=teacher needs the teachers of all {n_traces} traces, got {teachers}")
    sigma_M = np.asarray(teachers, np.int64)
    if sigma_M.max() >= n_tags:
        raise UserError(
            f"matching.fixed_by=teacher needs a tag for every teacher, but teacher number {sigma_M.max()} (counted "
            f"from 0) has none among {n_tags} tags: raise tags.count, or use matching.fixed_by=order"
        )
    if len(np.unique(sigma_M)) < n_traces:
        raise UserError(
            f"matching.fixed_by=teacher cannot give every trace its own tag: question {_question(key)} has several "
            f"traces of one teacher (teachers {sigma_M.tolist()}): keep one per teacher when preparing the data, or "
            "use matching.fixed_by=order"
        )
    return sigma_M


def _check_room(n_traces: int, n_tags: int, key: Key) -> None:
    if n_traces > n_tags:
        raise UserError(
            f"question {_question(key)} has {n_traces} traces but there are only {n_tags} tags, and no two traces may "
            "share one: raise tags.count or lower data.traces"
        )


def _question(key: Key) -> str:
    return repr(key[-1]) if key else "?"
