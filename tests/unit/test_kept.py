"""What a question keeps between two matchings."""

import json

import numpy as np
import pytest

from nemo_forking.data.token_file import Question, Trace
from nemo_forking.data.traces import epoch_order, visits
from nemo_forking.matching.kept import Kept
from nemo_forking.matching.statistics import Statistics


def question(index: int, places=(0, 1, 2)) -> Question:
    ids = np.zeros(3, dtype=np.int64)
    return Question(index, f"q{index}", ids, tuple(Trace(ids, teacher=0, place=place) for place in places))


def test_a_question_is_matched_on_every_kth_visit_and_keeps_its_tags_between():
    kept, one = Kept(3), question(5)
    for visit, tags in ((0, [4, 0, 2]), (3, [1, 2, 3])):
        assert kept.tags(one, visit) is None
        kept.keep(one, tags)
        assert kept.tags(one, visit + 1) == kept.tags(one, visit + 2) == tags


def test_one_means_matched_on_every_visit_and_nothing_kept():
    kept = Kept(1)
    kept.keep(question(0), [0, 1, 2])
    assert all(kept.tags(question(0), visit) is None for visit in range(4))
    assert kept.state_dict() == []


def test_some_of_the_traces_keep_their_own_tags():
    kept = Kept(2)
    kept.keep(question(0, places=(0, 2, 3)), [5, 1, 0])
    assert kept.tags(question(0, places=(2, 3)), 1) == [1, 0]


def test_a_trace_that_was_not_matched_makes_the_question_be_matched():
    kept = Kept(2)
    kept.keep(question(0, places=(0, 2)), [5, 1])
    assert kept.tags(question(0, places=(0, 1)), 1) is None


def test_a_question_never_seen_is_matched_whatever_its_visit():
    assert Kept(4).tags(question(0), 3) is None


def test_what_is_kept_survives_a_checkpoint():
    kept, loaded = Kept(2), Kept(2)
    kept.keep(question(0), [3, 4, 5])
    kept.keep(question(7, places=(1, 4)), [0, 2])
    loaded.load_state_dict(json.loads(json.dumps(kept.state_dict())))
    assert loaded.tags(question(0), 1) == [3, 4, 5]
    assert loaded.tags(question(7, places=(4, 1)), 1) == [2, 0]
    assert loaded.state_dict() == kept.state_dict()


@pytest.mark.parametrize("questions", [1, 3, 4, 7])
def test_a_visit_is_the_number_of_earlier_batches_with_the_question(questions):
    seen: dict[int, int] = {}
    for step in range(12):
        for place, visit in enumerate(visits(5, step=step, questions=questions)):
            epoch, item = divmod(step * questions + place, 5)
            index = int(epoch_order(5, 1, epoch)[item])
            assert visit == seen.get(index, 0)
            seen[index] = visit + 1


def test_costs_are_reported_of_the_questions_that_were_scored():
    statistics = Statistics(2, ["a"])
    cost_QNM = np.array([[[1.0], [3.0]], [[np.nan], [np.nan]]])
    seen = statistics.update([0, 1], np.array([[0], [1]]), np.zeros((2, 1), int), cost_QNM)
    assert seen["cost_mean"] == 1.0 and seen["cost_gain"] == 1.0
    assert seen["tag_usage"] == [1, 1]
    seen = statistics.update([0, 1], np.array([[0], [1]]), np.zeros((2, 1), int), cost_QNM[1:].repeat(2, 0))
    assert seen["cost_mean"] is None
