"""Rows to the cost matrix."""

import numpy as np
import pytest

from nemo_forking.matching.cost import RowNotScored, cost_matrix


def test_rows_fill_the_matrix_in_question_tag_trace_order():
    cost_QNM = cost_matrix(np.arange(1.0, 9.0), np.full(8, 2.0), [1, 3], n_tags=2)
    inf = np.inf
    assert cost_QNM.tolist() == [[[0.5, inf, inf], [1.0, inf, inf]], [[1.5, 2.0, 2.5], [3.0, 3.5, 4.0]]]


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_an_overflow_is_nan_and_never_an_absent_trace(value: float):
    assert np.isnan(cost_matrix(np.full(2, value), np.ones(2), [1], n_tags=2)).all()


def test_a_row_that_nobody_scored_is_named():
    count = np.ones(8)
    count[6] = 0
    with pytest.raises(RowNotScored, match="question 1 of the batch with tag 1 and trace 1"):
        cost_matrix(np.ones(8), count, [1, 3], n_tags=2)


def test_a_wrong_number_of_rows_is_refused():
    with pytest.raises(ValueError, match="7 rows for 8"):
        cost_matrix(np.ones(7), np.ones(7), [1, 3], n_tags=2)
