"""Prompt and target ids: templates, control tokens, and text that quotes control tokens."""

import json
from functools import lru_cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from nemo_forking.data.encoding import TextEncoder, load_tokenizer
from nemo_forking.data.prompt import PromptFormat, loss_mask
from nemo_forking.errors import UserError
from nemo_forking.tags import add_to_tokenizer, make_tags
from tests.unit.sources import character_tokenizer

TARGET = "{trace}<|im_start|>answer\n{answer}<|im_end|>"
START, END = 151644, 151645


@lru_cache
def qwen_from(folder):
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture
def qwen(shared_data):
    return qwen_from(shared_data / "tokenizer")


def test_the_chat_prompt_is_what_the_tokenizer_itself_gives(qwen):
    form = PromptFormat(qwen, "chat", TARGET)
    questions = ["What is 2+2?", "\n\n  spaced  ", "naïve café 你好\n", "{question} and {answer}", "x"]
    for question, ids in zip(questions, form.prompts(questions), strict=True):
        messages = [{"role": "user", "content": question}]
        assert ids == qwen.apply_chat_template(messages, add_generation_prompt=True)


def test_the_system_message_replaces_the_templates_default(qwen):
    messages = [{"role": "system", "content": "Be {brief}."}, {"role": "user", "content": "Why?"}]
    expected = qwen.apply_chat_template(messages, add_generation_prompt=True)
    assert PromptFormat(qwen, "chat", TARGET, system="Be {brief}.").prompts(["Why?"]) == [expected]


def test_the_target_is_what_the_tokenizer_gives_for_the_filled_template(qwen):
    form = PromptFormat(qwen, "chat", TARGET)
    (ids,) = form.targets([("\nso it is\n", "42")])
    assert ids == qwen("\nso it is\n<|im_start|>answer\n42<|im_end|>").input_ids
    assert (ids.count(START), ids[-1]) == (1, END)


def test_a_target_may_be_the_trace_alone(qwen):
    assert PromptFormat(qwen, "chat", "{trace}<|im_end|>").targets([("a {answer}", "42")]) == [
        [*qwen("a {answer}").input_ids, END]
    ]


def test_quoted_control_tokens_are_encoded_as_text(qwen):
    form = PromptFormat(qwen, "chat", TARGET)
    trace = "<|im_end|>\n<|im_start|>system\n<tool_call><|fim_pad|><|endoftext|>"
    (ids,) = form.targets([(trace, "<|im_end|>")])
    assert [token for token in ids if token >= 151643] == [START, END]
    assert qwen.decode(ids) == trace + "<|im_start|>answer\n<|im_end|><|im_end|>"
    (prompt,) = form.prompts(["what is <|im_end|>?"])
    assert sum(token >= 151643 for token in prompt) == sum(token >= 151643 for token in form.prompts(["?"])[0])


def test_the_real_trace_that_quotes_im_start_keeps_it_as_text(qwen, shared_data):
    with open(shared_data / "traces" / "multi_trace.jsonl") as lines:
        (row,) = (json.loads(line) for line in lines if line.startswith('{"id": "math500-94"'))
    (text,) = (trace["text"] for trace in row["traces"] if "<|im_start|>" in trace["text"])
    assert START in qwen(text).input_ids  # the tokenizer by itself would let it through
    (ids,) = PromptFormat(qwen, "chat", TARGET).targets([(text, row["answer"])])
    assert [token for token in ids if token >= 151643] == [START, END]
    assert qwen.decode(ids) == f"{text}<|im_start|>answer\n{row['answer']}<|im_end|>"


def test_quoted_tags_are_encoded_as_text():
    tokenizer = character_tokenizer()
    tags = make_tags(tokenizer, "special", 4, vocabulary_rows=128)
    add_to_tokenizer(tokenizer, tags)
    form = PromptFormat(tokenizer, "{question}", "{trace}")
    assert form.targets([("<think2>", "")]) == [list(tags.pieces_N[1])]


characters = st.text(alphabet=st.sampled_from("ab1 \n<|>é你"), max_size=8)
pieces = st.one_of(
    characters, st.sampled_from(["<|im_start|>", "<|im_end|>", "<tool_call>", "<|im_", "start|>", "{trace}"])
)
quoting = st.lists(pieces, max_size=5).map("".join)


@settings(deadline=None, max_examples=60)
@given(trace=quoting, answer=quoting)
def test_whatever_is_quoted_only_the_templates_control_tokens_are_real(shared_data, trace, answer):
    tokenizer = qwen_from(shared_data / "tokenizer")
    (ids,) = PromptFormat(tokenizer, "{question}", TARGET).targets([(trace, answer)])
    assert [token for token in ids if token >= 151643] == [START, END]
    assert tokenizer.decode(ids) == TARGET.format(trace=trace, answer=answer)


@settings(deadline=None, max_examples=60)
@given(trace=characters, answer=characters)
def test_without_quotes_the_ids_are_the_tokenizers_own(shared_data, trace, answer):
    tokenizer = qwen_from(shared_data / "tokenizer")
    (ids,) = PromptFormat(tokenizer, "{question}", TARGET).targets([(trace, answer)])
    assert ids == tokenizer(TARGET.format(trace=trace, answer=answer)).input_ids


def test_a_template_string_works_with_a_character_tokenizer():
    tokenizer = character_tokenizer()
    form = PromptFormat(tokenizer, "Q{1} {question}\n", TARGET)
    assert tokenizer.decode(form.prompts(["2+2"])[0]).replace(" ", "") == "Q{1}2+2\n"
    (ids,) = form.targets([("a", "4")])
    control = TextEncoder(tokenizer).control
    assert ids[1] == control["<|im_start|>"] and ids[-1] == control["<|im_end|>"]


def test_bad_templates_and_tokenizers_are_refused(tmp_path):
    tokenizer = character_tokenizer()
    with pytest.raises(UserError, match=r"data.prompt: the template 'Q' lacks \{question\}; put it where"):
        PromptFormat(tokenizer, "Q", TARGET)
    with pytest.raises(UserError, match=r"data.target: the template '\{answer\}' lacks \{trace\}"):
        PromptFormat(tokenizer, "{question}", "{answer}")
    with pytest.raises(UserError, match="data.prompt=chat, but the tokenizer has no chat template"):
        PromptFormat(tokenizer, "chat", TARGET)
    with pytest.raises(UserError, match="data.system is set, but data.prompt is a template string"):
        PromptFormat(tokenizer, "{question}", TARGET, system="hi")
    tokenizer.chat_template = "{{ messages | length }}"
    with pytest.raises(UserError, match="does not hold the question exactly once"):
        PromptFormat(tokenizer, "chat", TARGET)
    with pytest.raises(UserError, match="tokenizer folder .*none does not exist; set data.tokenizer"):
        load_tokenizer(tmp_path / "none")
    with pytest.raises(UserError, match="holds no tokenizer that transformers can load"):
        load_tokenizer(tmp_path)


def test_a_question_that_looks_like_the_templates_field_is_left_alone(qwen):
    messages = [{"role": "system", "content": "say {question}"}, {"role": "user", "content": "a {question} b"}]
    expected = qwen.apply_chat_template(messages, add_generation_prompt=True)
    assert PromptFormat(qwen, "chat", TARGET, system="say {question}").prompts(["a {question} b"]) == [expected]


@pytest.mark.parametrize(("include_tag", "learnt"), [(True, 4), (False, 3)])
def test_the_loss_mask_covers_the_target_and_perhaps_the_tag(include_tag, learnt):
    mask_T = loss_mask(prompt=5, tag=1, target=3, include_tag=include_tag)
    assert mask_T.shape == (9,) and mask_T.sum() == learnt and mask_T[-learnt:].all()


def test_fast_tokenizers_only():
    with pytest.raises(UserError, match="is not a fast tokenizer"):
        TextEncoder(object())
    assert isinstance(character_tokenizer(), PreTrainedTokenizerFast)
