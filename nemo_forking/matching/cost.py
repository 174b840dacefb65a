"""The matching cost from scored rows (paper section 1; design 3.3).

Shape letters: Q questions, N tags, M traces (of the question with most), R rows.

Rows are numbered in the order (question, tag, trace), absent traces left out.
"""

from collections.abc import Sequence

import numpy as np


class RowNotScored(RuntimeError):
    """No rank scored a row of the matching pass: the rows were dealt wrongly."""

    def __init__(self, question: int, tag: int, trace: int, name: str = ""):
        super().__init__(question, tag, trace, name)
        self.question, self.tag, self.trace, self.name = question, tag, trace, name

    def __str__(self) -> str:
        name = f" (id {self.name!r})" if self.name else ""
        return (
            f"no rank scored question {self.question} of the batch{name} with tag {self.tag} and trace {self.trace} "
            "(counted from 0): a row was lost when rows were dealt to ranks, or has no counted token"
        )


def cost_matrix(sum_R: np.ndarray, count_R: np.ndarray, traces_Q: Sequence[int], n_tags: int) -> np.ndarray:
    """Mean negative log-likelihood per counted token of every row.

    Args:
        sum_R: NLL in nats, summed over each row's counted tokens.
        count_R: each row's counted tokens.
        traces_Q: number of traces of every question.
        n_tags: N.

    Returns:
        cost_QNM float64, nats per token; +inf where a trace is absent, and NaN where a present one's cost is not
        finite, so that an overflow is never taken for an absence.

    Raises:
        RowNotScored: a row has no counted token.
    """
    present_QNM = np.arange(max(traces_Q)) < np.asarray(traces_Q)[:, None, None]
    present_QNM = np.repeat(present_QNM, n_tags, axis=1)
    if present_QNM.sum() != len(sum_R):
        raise ValueError(f"{len(sum_R)} rows for {present_QNM.sum()} (question, tag, trace) places")
    (lost,) = np.nonzero(np.asarray(count_R) <= 0)
    if lost.size:
        raise RowNotScored(*np.argwhere(present_QNM)[lost[0]].tolist())
    mean_R = np.asarray(sum_R, np.float64) / np.asarray(count_R, np.float64)
    cost_QNM = np.full(present_QNM.shape, np.inf)
    cost_QNM[present_QNM] = np.where(np.isfinite(mean_R), mean_R, np.nan)  # boolean places run in row order
    return cost_QNM
