"""Which earlier rollouts count again: the latest that were drawn, not copied, within so many batches."""

import numpy as np

from nemo_forking.rl.batches import Batch
from nemo_forking.rl.reuse import find_earlier


def batch(number: int, *questions: str, copied: dict[str, int] | None = None) -> Batch:
    """A batch of these questions; `copied` were drawn in an earlier one."""
    drawn_at = [(copied or {}).get(question, number) for question in questions]
    tables = {name: np.zeros((len(questions), 2)) for name in ("logprob_QN", "behaviour_QN", "tag_QG", "reward_QG")}
    tables |= {name: np.zeros((len(questions), 2)) for name in ("counted_QG", "tokens_QG", "cut_QG")}
    return Batch(list(questions), ["k"] * len(questions), **tables, drawn_at_Q=np.array(drawn_at))


HISTORY = {
    0: batch(0, "a", "b"),
    1: batch(1, "c", "a", copied={"a": 0}),
    2: batch(2, "d", "b"),
    3: batch(3, "a", "c", copied={"c": 1}),
}


def found(number: int, reuse: int, *questions: str) -> dict[str, tuple[int, str]]:
    """Question -> batch it is found in, and the question that stands at the row found."""
    earlier = find_earlier(HISTORY.get, number, reuse, questions)
    return {name: (int(one.batch.drawn_at_Q[one.row]), one.batch.questions[one.row]) for name, one in earlier.items()}


def test_the_latest_rollouts_that_were_drawn_are_taken():
    assert found(4, 9, "a", "b", "c", "e") == {"a": (3, "a"), "b": (2, "b"), "c": (1, "c")}
    assert found(3, 9, "a", "b") == {"a": (0, "a"), "b": (2, "b")}  # of the copy in batch 1, the original


def test_a_copy_makes_rollouts_no_younger():
    assert found(4, 2, "a", "b", "c") == {"a": (3, "a"), "b": (2, "b")}  # batch 3 has c, drawn in batch 1
    assert found(4, 3, "c") == {"c": (1, "c")}


def test_only_batches_before_this_one_count_and_none_without_reuse():
    assert found(3, 1, "a") == {} and found(4, 1, "a", "d") == {"a": (3, "a")}
    assert found(0, 5, "a", "b") == {} and found(4, 0, "a", "b") == {}


def test_batches_that_are_not_there_are_passed_over():
    assert found(9, 9, "d") == {"d": (2, "d")} and found(9, 3, "d") == {}
