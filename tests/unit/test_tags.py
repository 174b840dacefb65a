"""Tags: golden ids on the real tokenizer, additive registration, initial rows."""

import json

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from nemo_forking.data.settings import TAG_ROOM
from nemo_forking.errors import UserError
from nemo_forking.tags import add_to_tokenizer, initial_rows, make_tags

QWEN_ROWS = 152064


@pytest.fixture(scope="module")
def qwen_folder(shared_data):
    return shared_data / "tokenizer"


@pytest.fixture
def qwen(qwen_folder):
    return AutoTokenizer.from_pretrained(qwen_folder)


@pytest.fixture
def characters():
    """A character-level tokenizer of 96 ids with two control tokens of its own."""
    symbols = [chr(code) for code in range(32, 126)]
    model = models.WordLevel({symbol: index for index, symbol in enumerate(symbols)}, unk_token="~")
    backend = Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    return tokenizer


def test_special_tags_take_the_spare_rows_of_qwen(qwen):
    tags = make_tags(qwen, "special", 6, vocabulary_rows=QWEN_ROWS)
    assert tags.ids_NK == ((151665,), (151666,), (151667,), (151668,), (151669,), (151670,))
    assert (tags.count, tags.length, tags.fork_offset) == (6, 1, 0)
    assert tags.fork_ids == tuple(range(151665, 151671))
    assert tags.pieces_N == tuple((13708, 766, 16 + i, 29) for i in range(6))
    assert tags.fork_position(40) == 40


def test_text_tags_have_the_released_checkpoints_ids(qwen, qwen_folder):
    tags = make_tags(qwen, "text", 9, vocabulary_rows=QWEN_ROWS)
    assert tags.ids_NK == tuple((151644, 13708, 766, 15 + i, 397) for i in range(1, 10))
    golden = json.loads((qwen_folder / "think_ids.json").read_text())
    for i in range(6):
        assert list(tags.ids_NK[i]) == golden[f"<|im_start|><think{i + 1}>\n"]["ids"]
    assert (tags.fork_offset, tags.length) == (3, TAG_ROOM)
    assert tags.fork_position(40) == 43
    assert tags.pieces_N == ((),) * 9


def test_one_text_tag_forks_at_the_same_place_as_many(qwen):
    assert make_tags(qwen, "text", 1, vocabulary_rows=QWEN_ROWS).fork_offset == 3


def test_adding_tags_keeps_the_special_tokens_there_were(qwen, tmp_path):
    before = list(qwen.additional_special_tokens)
    tags = make_tags(qwen, "special", 6, vocabulary_rows=QWEN_ROWS)
    add_to_tokenizer(qwen, tags)
    add_to_tokenizer(qwen, tags)
    assert qwen.additional_special_tokens == before + [f"<think{i}>" for i in range(1, 7)]
    assert qwen("a<think3>b").input_ids == [64, 151667, 65]
    qwen.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.additional_special_tokens == qwen.additional_special_tokens
    assert len(loaded) == 151671
    assert make_tags(loaded, "special", 6, vocabulary_rows=QWEN_ROWS) == tags
    assert make_tags(loaded, "text", 6, vocabulary_rows=QWEN_ROWS) == make_tags(
        qwen, "text", 6, vocabulary_rows=QWEN_ROWS
    )
    assert loaded.decode([151665, 64], skip_special_tokens=True) == "a"


def test_text_tags_leave_the_tokenizer_alone(qwen):
    length = len(qwen)
    assert len(add_to_tokenizer(qwen, make_tags(qwen, "text", 6, vocabulary_rows=QWEN_ROWS))) == length


def test_special_tags_work_with_a_character_tokenizer(characters, tmp_path):
    tags = make_tags(characters, "special", 6, vocabulary_rows=128)
    assert tags.ids_NK == tuple((96 + i,) for i in range(6))
    assert tags.pieces_N[0] == tuple(ord(c) - 32 for c in "<think1>")
    add_to_tokenizer(characters, tags).save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert make_tags(loaded, "special", 6, vocabulary_rows=128) == tags
    assert set(loaded.additional_special_tokens) == {"<|im_start|>", *(f"<think{i}>" for i in range(1, 7))}


def test_bad_tags_are_refused_with_a_remedy(characters):
    with pytest.raises(UserError, match="tag id 101 does not fit the model's 100 vocabulary rows; lower tags.count"):
        make_tags(characters, "special", 6, vocabulary_rows=100)
    with pytest.raises(UserError, match="tags.spelling is 'Special'; choose one of special, text"):
        make_tags(characters, "Special", 6, vocabulary_rows=128)
    with pytest.raises(UserError, match="tags.count is 0; at least one"):
        make_tags(characters, "special", 0, vocabulary_rows=128)
    with pytest.raises(UserError, match="at most 9"):
        make_tags(characters, "text", 10, vocabulary_rows=128)
    with pytest.raises(UserError, match="takes row 96 of the tokenizer's vocabulary, not the asked row 97"):
        make_tags(characters, "special", 2, vocabulary_rows=128, first_row=97)


def test_a_tokenizer_saved_with_fewer_tags_is_refused(characters):
    add_to_tokenizer(characters, make_tags(characters, "special", 4, vocabulary_rows=128))
    with pytest.raises(UserError, match="tags.count is 6, but the tokenizer was saved with 4 tags"):
        make_tags(characters, "special", 6, vocabulary_rows=128)


def test_tags_of_another_tokenizer_are_not_added(characters, qwen):
    tags = make_tags(characters, "special", 2, vocabulary_rows=128)
    with pytest.raises(UserError, match=r"rows \[151665, 151666\], not \[96, 97\]"):
        add_to_tokenizer(qwen, tags)


def test_initial_rows_are_the_mean_of_the_pieces_plus_noise(characters):
    tags = make_tags(characters, "special", 6, vocabulary_rows=128)
    rows_VH = torch.randn(128, 32, generator=torch.Generator().manual_seed(3))
    plain_NH = initial_rows(tags, rows_VH, std=None, noise=0.0, seed=0)
    for i, pieces in enumerate(tags.pieces_N):
        expected_H = sum(rows_VH[p].double() for p in pieces) / len(pieces)
        np.testing.assert_allclose(plain_NH[i].numpy(), expected_H.numpy(), rtol=1e-5, atol=1e-6)
    noisy_NH = initial_rows(tags, rows_VH, std=0.5, noise=0.1, seed=0)
    assert 0.03 < float((noisy_NH - plain_NH).std()) < 0.07
    assert len({tuple(row.tolist()) for row in (noisy_NH - plain_NH)}) == 6


def test_initial_rows_depend_on_the_seed_and_tag_only(characters):
    rows_VH = torch.randn(128, 8, generator=torch.Generator().manual_seed(3)).bfloat16()
    before = rows_VH.clone()
    few = make_tags(characters, "special", 2, vocabulary_rows=128)
    many = make_tags(characters, "special", 6, vocabulary_rows=128)
    first_NH = initial_rows(few, rows_VH, std=0.02, noise=0.5, seed=7)
    assert first_NH.dtype == torch.bfloat16 and first_NH.shape == (2, 8)
    assert torch.equal(first_NH, initial_rows(many, rows_VH, std=0.02, noise=0.5, seed=7)[:2])
    assert not torch.equal(first_NH, initial_rows(few, rows_VH, std=0.02, noise=0.5, seed=8))
    assert torch.equal(rows_VH, before)


def test_text_tags_have_no_initial_rows(qwen):
    tags = make_tags(qwen, "text", 6, vocabulary_rows=QWEN_ROWS)
    assert initial_rows(tags, torch.zeros(10, 4), std=None, noise=1.0, seed=0).shape == (0, 4)
