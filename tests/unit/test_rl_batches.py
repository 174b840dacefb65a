"""A batch of rollouts: which questions it has is a pure function, and its tables come back from disk as they were."""

import json
from dataclasses import fields

import numpy as np
import pytest

from nemo_forking.errors import UserError
from nemo_forking.rl.batches import FILE, Batch, questions_of_batch, tag_probabilities

COUNT, QUESTIONS = 11, 3  # two prompts of every epoch sit it out


def batches(numbers, seed=5) -> list[list[int]]:
    return [questions_of_batch(COUNT, seed, number, QUESTIONS) for number in numbers]


def test_an_epoch_holds_whole_batches_and_no_question_twice():
    an_epoch = COUNT // QUESTIONS
    for epoch in range(20):
        places = sum(batches(range(epoch * an_epoch, (epoch + 1) * an_epoch)), [])
        assert len(set(places)) == len(places) == an_epoch * QUESTIONS and set(places) <= set(range(COUNT))


def test_every_question_has_its_turn_though_some_sit_an_epoch_out():
    turns = np.bincount(sum(batches(range(3 * 200)), []), minlength=COUNT)
    np.testing.assert_allclose(turns / 200, 9 / 11, atol=4 * np.sqrt(9 / 11 * 2 / 11 / 200))


def test_questions_depend_on_seed_and_number_alone():
    there, back = batches(range(9)), batches(reversed(range(9)))
    assert there == back[::-1] and all(type(place) is int for place in there[0])
    assert there != batches(range(9), seed=6) and there[:3] != there[3:6]


def test_a_batch_may_take_all_prompts_and_no_more():
    assert sorted(questions_of_batch(4, 0, 7, 4)) == [0, 1, 2, 3]
    with pytest.raises(UserError, match="batch.questions=5, but there are 4 prompts: prepare more, or take fewer"):
        questions_of_batch(4, 0, 0, 5)


def test_probabilities_among_the_tags_do_not_depend_on_their_mass_however_small():
    share_QN = np.array([[0.5, 0.25, 0.25], [1.0, 0.0, 0.0]])
    with np.errstate(divide="ignore"):
        logprob_QN = np.log(share_QN)
    for shift in (0.0, -3.0, -2000.0):  # exp(-2000) is 0
        np.testing.assert_allclose(tag_probabilities(logprob_QN + shift), share_QN, rtol=1e-12)


# ---------------------------------------------------------------- files


def some_batch() -> Batch:
    random = np.random.default_rng(0)
    logprob_QN = random.normal(size=(2, 3))
    logprob_QN[0, 1] = -np.inf  # a tag that is never drawn
    return Batch(
        questions=["q1", 'a "name"'],
        kinds=["P", "Q"],
        logprob_QN=logprob_QN,
        behaviour_QN=random.normal(size=(2, 3)) / 3,
        tag_QG=random.integers(0, 3, (2, 4)),
        reward_QG=random.integers(0, 2, (2, 4)).astype(np.float64),
        counted_QG=random.random((2, 4)) < 0.5,
        tokens_QG=random.integers(1, 9, (2, 4)),
        cut_QG=random.random((2, 4)) < 0.5,
        drawn_at_Q=np.array([4, 7]),
    )


def test_a_batch_comes_back_to_the_last_bit(tmp_path):
    batch = some_batch()
    assert Batch.load(tmp_path) is None
    batch.save(tmp_path)
    found = Batch.load(tmp_path)
    for name in (field.name for field in fields(Batch)):
        kept, back = getattr(batch, name), getattr(found, name)
        if isinstance(kept, np.ndarray):
            assert back.dtype == kept.dtype and back.shape == kept.shape and (back == kept).all(), name
        else:
            assert back == kept, name


@pytest.mark.parametrize("spoil", ["cut short", "a table missing", "a table too many", "no tables"])
def test_a_damaged_file_is_told_with_what_to_do(tmp_path, spoil):
    some_batch().save(tmp_path)
    text = (tmp_path / FILE).read_text()
    tables = json.loads(text)
    spoilt = {
        "cut short": text[: len(text) // 2],
        "a table missing": json.dumps({name: table for name, table in tables.items() if name != "cut_QG"}),
        "a table too many": json.dumps(tables | {"more": []}),
        "no tables": json.dumps(list(tables)),
    }
    (tmp_path / FILE).write_text(spoilt[spoil])
    with pytest.raises(UserError, match=f"{tmp_path / FILE}: damaged; remove it, and it is made again from the samp"):
        Batch.load(tmp_path)
