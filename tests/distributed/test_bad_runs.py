"""Runs that must not go on: every rank ends with the reason, and nothing half-done is left."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nemo_forking.data.token_file import TokenFile
from nemo_forking.data.traces import global_batch
from nemo_forking.errors import UserError
from nemo_forking.model.qwen2 import WeightedLoss
from nemo_forking.training.launch import RankFailed, check_data_fits, fork_ranks
from tests.distributed.runs import (
    DATA,
    PIPELINE,
    TENSOR,
    Ground,
    error_of,
    errors,
    left_behind,
    metrics,
    prepare,
    run,
    tiny,
    write_base,
)

CONTEXT = {"layout.devices": 2, "layout.context": 2}
LAYOUTS = {
    "one": {},
    "unpacked": {"batch.packing": False},
    "tensor": TENSOR,
    "pipeline": PIPELINE,
    "data": DATA,
    "context": CONTEXT,
}


@pytest.fixture(scope="module")
def poisoned(ground, tmp_path_factory) -> tuple[Path, int, int]:
    """A base with a NaN in the embedding of one token that matching reads of one question of the first step only.

    The question is not the first, and shares micro-batches with sound ones.
    """
    questions = first_batch(ground)
    read = [read_tokens(question) for question in questions]
    place = next(i for i in range(1, len(read)) if read[i] - set().union(*read[:i], *read[i + 1 :]))
    token = min(read[place] - set().union(*read[:place], *read[place + 1 :]))

    def poison(state: dict) -> None:
        state["model.embed_tokens.weight"][token, 0] = torch.nan

    base = write_base(tmp_path_factory.mktemp("poisoned"), tied=False, change=poison)
    return base, place, token


def first_batch(ground: Ground):
    return global_batch(TokenFile(ground.data), seed=1, step=0, questions=4, tags=4, sample_down=False)


def read_tokens(question, trained: bool = False) -> set[int]:
    """Ids that the matching pass (or training) feeds to the model: all but each row's last."""
    return set(question.prompt.tolist()).union(
        *(trace.ids[: -1 if trained else 9].tolist() for trace in question.traces)
    )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_cost_that_is_not_a_number_ends_every_rank_with_the_questions_id(layout, ground, poisoned, tmp_path):
    base, place, _ = poisoned
    name = first_batch(ground)[place].id
    config = tiny(ground, tmp_path, LAYOUTS[layout] | {"model.base": str(base), "trainer.checkpoint_every": 1})
    found = errors(config)
    assert len(found) == config.layout.processes
    for kind, message in found:
        assert kind == "NonFiniteCost"
        assert f"question {place} of the batch (id '{name}') has a matching cost that is NaN or infinite" in message
    assert left_behind(config) == []
    assert metrics_written(config) == []


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_loss_that_is_not_a_number_is_told_with_its_question_and_never_stepped_on(layout, ground, poisoned, tmp_path):
    """Without matching nothing is scored: the loss is the first to know."""
    base, _, token = poisoned
    readers = [q.id for q in first_batch(ground) if token in read_tokens(q, trained=True)]
    assert 0 < len(readers) < 4
    changes = {"model.base": str(base), "matching.rule": "random", "trainer.checkpoint_every": 1}
    config = tiny(ground, tmp_path, LAYOUTS[layout] | changes)
    found = fork_ranks(error_without_update, config.layout.processes, config)
    assert len(found) == config.layout.processes
    for kind, message in found:
        assert kind == "UserError"
        assert "step 1 is not finite; the optimizer was not touched" in message
        assert f"loss: of {', '.join(sorted(readers))}, on ranks" in message and "gradient: on ranks" in message
    assert left_behind(config) == []
    assert metrics_written(config) == []


def test_a_gradient_that_is_not_finite_is_told_by_its_weights(ground, tmp_path):
    """Every loss is finite, and its gradient by far too large for float32."""
    changes = {"matching.rule": "random", "trainer.checkpoint_every": 1}
    config = tiny(ground, tmp_path, DATA | changes)
    for kind, message in fork_ranks(overflow, 2, config):
        assert kind == "UserError"
        assert "loss: finite for every question" in message
        assert "gradient: on ranks [0, 1], there of" in message and "weight" in message
    assert left_behind(config) == []
    sound = fork_ranks(error_without_update, 2, tiny(ground, tmp_path / "sound", DATA | changes))
    assert sound == [("AssertionError", "a weight was updated")] * 2


def error_without_update(config) -> tuple[str, str]:
    """In a forked rank: what training raises, where an update of weights is an error too."""

    def update(*_, **__):
        raise AssertionError("a weight was updated")

    torch.optim.Adam.step = update  # of AdamW, too
    return error_of(config)


def overflow(config) -> tuple[str, str]:
    """In a forked rank: the loss is what it was, its gradient is not."""
    forward = WeightedLoss.forward

    def enlarged(loss, batch, nll_L):
        value, count, report = forward(loss, batch, nll_L)
        return value + (value - value.detach()) * 3e38 * 1e5, count, report

    WeightedLoss.forward = enlarged
    return error_without_update(config)


def metrics_written(config) -> list[dict]:
    return metrics(config) if (Path(config.run.folder) / "metrics.jsonl").exists() else []


def test_a_checkpoint_before_the_failure_stays_and_is_continued(ground, tmp_path):
    """A learning rate that blows the model up at the first step: the second one stops, the first stays saved."""
    wild = {"optim.lr": 1e30, "optim.min_lr": 1e30, "optim.eps": 1e-8, "trainer.max_steps": 3}
    config = tiny(ground, tmp_path, TENSOR | wild | {"trainer.checkpoint_every": 1})
    for _ in range(2):
        for kind, message in errors(config):
            assert kind == "NonFiniteCost" and "resume from an earlier checkpoint with a smaller optim.lr" in message
        assert [line["step"] for line in metrics(config)] == [1]
        assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step_0000001"]
        assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("rule", ["optimal", "random"])
def test_more_traces_than_tags_are_refused_on_every_rank(rule, ground, tmp_path):
    config = tiny(ground, tmp_path / "run", TENSOR | {"tags.count": 3, "data.traces": 3, "matching.rule": rule})
    for kind, message in errors(config):  # the prepared folder has up to four a question
        assert kind == "UserError" and "has 4 traces for 3 tags" in message and "raise tags.count" in message
    assert left_behind(config) == []
    with pytest.raises(UserError, match="has a question with 4 traces for 3 tags: raise tags.count"):
        check_data_fits(config, TokenFile(ground.data))  # and before any rank starts


@pytest.mark.parametrize("rule", ["mixed", "none"])
def test_rules_that_give_traces_no_tag_of_their_own_take_more_traces_than_tags(rule, ground, tmp_path):
    config = tiny(ground, tmp_path / "run", {"tags.count": 1, "matching.rule": rule})
    check_data_fits(config, TokenFile(ground.data))
    (steps,) = run(config)
    assert steps[0].sigma_QM.shape == (4, 4)
    assert steps[0].sigma_QM.max() == (0 if rule == "mixed" else -1)


def test_more_traces_than_tags_are_drawn_from_when_conf_says_so(ground, tmp_path):
    config = tiny(ground, tmp_path / "run", {"tags.count": 2, "data.sample_down": True})
    (steps,) = run(config)
    assert steps[0].sigma_QM.shape == (4, 2) and steps[0].cost_QNM.shape == (4, 2, 2)
    check_data_fits(config, TokenFile(ground.data))


@pytest.mark.parametrize("key", ["tokens", "match_tokens"])
def test_a_row_longer_than_a_packed_micro_batch_is_refused_on_every_rank(key, ground, tmp_path):
    config = tiny(ground, tmp_path / "run", DATA | {"matching.tokens": 40})
    config = replace(config, batch=replace(config.batch, **{key: 12}))  # past the check of the configuration alone
    for kind, message in errors(config):
        assert kind == "UserError" and "does not fit a packed micro-batch of 12: raise batch.tokens" in message
    assert left_behind(config) == []


def test_data_that_cannot_fit_is_refused_before_any_rank_starts(ground, tmp_path):
    config = tiny(ground, tmp_path / "run")
    long = TokenFile(prepare(tmp_path / "long", 2, longest=60))
    short = replace(config, batch=replace(config.batch, tokens=20))
    with pytest.raises(
        UserError, match=r"sequence of \d+ tokens, but model.max_length is 64: prepare it with data.max"
    ):
        check_data_fits(config, long)
    with pytest.raises(UserError, match=r"packed micro-batch holds batch.tokens=20: raise it to 36, or prep"):
        check_data_fits(short, TokenFile(ground.data))
    narrow = replace(config, batch=replace(config.batch, match_tokens=15))
    with pytest.raises(UserError, match=r"a row does not fit batch.match_tokens=15; raise it to \d+"):
        check_data_fits(narrow, TokenFile(ground.data))
    check_data_fits(replace(narrow, batch=replace(narrow.batch, packing=False)), TokenFile(ground.data))
    check_data_fits(config, TokenFile(ground.data))


def test_data_that_was_never_prepared_is_refused_on_every_rank(ground, tmp_path):
    config = tiny(ground, tmp_path / "run", TENSOR | {"data.folder": str(tmp_path / "nowhere")})
    for kind, message in errors(config):
        assert kind == "UserError" and "holds no prepared data; run recipes/prepare_data.py" in message
    assert not (tmp_path / "run").exists()


def test_tags_beyond_the_vocabulary_are_refused_on_every_rank(ground, tmp_path):
    config = tiny(ground, tmp_path / "run", TENSOR | {"tags.count": 20})
    for kind, message in errors(config):
        assert kind == "UserError" and "tag id 117 does not fit the model's 112 vocabulary rows" in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("distributed", [True, False])
def test_a_checkpoint_of_the_other_kind_of_optimizer_is_refused(distributed, ground, tmp_path):
    one_step = {"trainer.max_steps": 2, "trainer.checkpoint_every": 1}
    with pytest.raises(RankFailed, match="KeyboardInterrupt"):
        run(tiny(ground, tmp_path, one_step | {"layout.distributed_optimizer": distributed}), interrupt)
    other = tiny(ground, tmp_path, one_step | DATA | {"layout.distributed_optimizer": not distributed})
    for kind, message in errors(other):
        assert kind == "UserError"
        assert f"step_0000001 was written with layout.distributed_optimizer={str(distributed).lower()}" in message
        assert "keep it as it was, or choose another run.folder" in message


def interrupt(record: dict) -> None:
    raise KeyboardInterrupt
