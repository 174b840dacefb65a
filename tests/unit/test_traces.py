"""The global batch of a step: a pure function of (seed, step) that visits every question once an epoch."""

from collections import Counter
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_forking.data.prepare import prepare
from nemo_forking.data.token_file import TokenFile, TokenFileWriter
from nemo_forking.data.traces import global_batch
from nemo_forking.errors import UserError
from tests.unit.sources import row, small_config, trace

whole_batch = partial(global_batch, tags=6, sample_down=False)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Seven questions; question i has i + 1 traces, the ids of trace j being [i, j]."""
    return written(tmp_path_factory.mktemp("prepared"), 7)


def written(folder, count):
    with TokenFileWriter(folder) as writer:
        for i in range(count):
            writer.add(f"q{i}", [i], [(f"teacher {j}", [i, j]) for j in range(i + 1)])
        writer.finish({})
    return TokenFile(folder)


def ids(batch):
    return [question.index for question in batch]


def test_steps_run_through_whole_epochs_end_to_end(file):
    stream = [i for step in range(21) for i in ids(whole_batch(file, seed=4, step=step, questions=3, tags=9))]
    epochs = [stream[start : start + 7] for start in range(0, 63, 7)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 5


def test_the_stream_does_not_depend_on_the_batch_size(file):
    streams = [
        [i for step in range(12 // size) for i in ids(whole_batch(file, seed=4, step=step, questions=size, tags=9))]
        for size in (1, 2, 3, 4, 12)
    ]
    assert all(stream == streams[0] for stream in streams)


@settings(deadline=None)
@given(seed=st.integers(0, 2**32), step=st.integers(0, 10**9))
def test_a_batch_is_a_pure_function_of_seed_and_step(file, seed, step):
    once = whole_batch(file, seed=seed, step=step, questions=4, tags=9)
    whole_batch(file, seed=seed + 1, step=step + 1, questions=4, tags=9)
    assert ids(once) == ids(whole_batch(TokenFile(file.folder), seed=seed, step=step, questions=4, tags=9))


def test_the_order_of_an_epoch_never_changes_between_versions(file):
    assert ids(whole_batch(file, seed=0, step=0, questions=7, tags=9)) == [0, 2, 1, 5, 4, 3, 6]


def test_seeds_and_epochs_shuffle_uniformly(tmp_path):
    file = written(tmp_path, 3)
    orders = Counter(tuple(ids(whole_batch(file, seed=s, step=e, questions=3))) for s in range(30) for e in range(40))
    assert len(orders) == 6 and min(orders.values()) > 140


def test_a_batch_larger_than_the_data_goes_round_again(file):
    assert Counter(ids(whole_batch(file, seed=0, step=0, questions=14, tags=9))) == Counter({i: 2 for i in range(7)})


def test_all_traces_are_given_where_there_is_a_tag_for_each(file):
    for question in whole_batch(file, seed=0, step=0, questions=7, tags=7):
        assert [trace.ids.tolist() for trace in question.traces] == [
            [question.index, j] for j in range(question.index + 1)
        ]
        assert question.prompt.tolist() == [question.index] and question.id == f"q{question.index}"


def test_more_traces_than_tags_are_refused_with_the_remedy(file):
    with pytest.raises(UserError, match=r"question 'q[456]' has [567] traces for 4 tags; .*set data.sample_down=true"):
        whole_batch(file, seed=0, step=0, questions=7, tags=4)


def test_sampling_down_keeps_order_and_gives_every_trace_its_turn(file):
    draws = Counter()
    for step in range(400):
        for question in global_batch(file, seed=2, step=step, questions=7, tags=4, sample_down=True):
            chosen = [int(trace.ids[1]) for trace in question.traces]
            assert chosen == sorted(set(chosen)) and len(chosen) == min(4, question.index + 1)
            if question.index == 6:
                draws.update(chosen)
    assert all(abs(count - 400 * 4 / 7) < 50 for count in draws.values()) and len(draws) == 7


def test_sampling_down_is_a_function_of_seed_step_and_question(file):
    def chosen(seed, step):
        batch = global_batch(file, seed=seed, step=step, questions=7, tags=3, sample_down=True)
        return {question.index: tuple(trace.teacher for trace in question.traces) for question in batch}

    assert chosen(0, 5) == chosen(0, 5)
    assert len({tuple(sorted(chosen(0, step).items())) for step in range(10)}) > 5


def test_prepared_data_can_be_trained_on_and_prepared_again_while_it_is_read(tmp_path):
    config = small_config(tmp_path, *(row(f"q{i}") for i in range(5)))
    prepare(config)
    reader = TokenFile(config.folder)
    before = [question.prompt for question in whole_batch(reader, seed=0, step=0, questions=5)]
    prepare(replace(config, seed=9, prompt="other {question}"))
    after = [question.prompt for question in whole_batch(reader, seed=0, step=0, questions=5)]
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def test_teachers_are_indices_into_the_sorted_names(tmp_path):
    prepare(small_config(tmp_path, row("a", traces=[trace("zoe", "so 4"), trace("ann", "4!")])))
    file = TokenFile(tmp_path / "out")
    (question,) = whole_batch(file, seed=0, step=0, questions=1)
    assert file.teachers == ["ann", "zoe"] and [trace.teacher for trace in question.traces] == [1, 0]
