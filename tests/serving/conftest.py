"""Tiny checkpoints that every engine can load, and what every engine must answer on them."""

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from tests.serving.local_server import LocalServer
from tests.serving.requests import BANNED, TAGS, VOCABULARY, WORDS


def make_checkpoint(folder, seed):
    """A random Qwen2 with heads of 32, the least that vLLM's CPU kernels know; fewer words than rows."""
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=256,
        initializer_range=0.3,
        tie_word_embeddings=False,
    )
    model = Qwen2ForCausalLM(config)
    # What a server would read here would change what is drawn; every engine must leave it aside.
    model.generation_config.update(eos_token_id=7, repetition_penalty=1.5, top_k=3, do_sample=True)
    model.save_pretrained(folder)
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(WORDS)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="w7").save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A random Qwen2 folder."""
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint") / "model", seed=1)


@pytest.fixture(scope="session")
def other_checkpoint(tmp_path_factory):
    """The same architecture with other weights."""
    return make_checkpoint(tmp_path_factory.mktemp("other") / "model", seed=2)


@pytest.fixture(scope="module")
def servers(checkpoint):
    """Two servers that stay up, with the weights they began with."""
    with LocalServer(checkpoint) as one, LocalServer(checkpoint) as two:
        yield one, two


@pytest.fixture
def pair(servers):
    """The two servers, without faults."""
    for server in servers:
        server.fault()
    return servers


def check_greedy(finished, reference, *, tolerance):
    """Answers to `greedy_requests` equal the reference's; log-probabilities do within `tolerance`."""
    assert [(done.request_id, done.ids, done.finish_reason) for done in finished] == [
        (done.request_id, done.ids, done.finish_reason) for done in reference
    ]
    assert {done.finish_reason for done in finished} == {"stop", "length"}
    for one, other in zip(finished, reference, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=tolerance)
    assert not {i for done in finished[:-1] for i in done.ids} & set(BANNED)
    assert set(finished[-1].ids) <= set(TAGS)
