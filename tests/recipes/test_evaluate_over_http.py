"""An evaluation against servers that fail: a replica killed, the client killed, and the same samples in the end."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nemo_forking.evaluation.folder import load_lines
from nemo_forking.tags import add_to_tokenizer, make_tags
from nemo_forking.tasks import many_ways
from tests.command_lines import finish, refused
from tests.conftest import CHECKOUT
from tests.serving.local_server import LocalServer

QUESTIONS, SLOTS, ROUNDS = 20, 6, 2


@pytest.fixture(scope="module")
def task(tmp_path_factory) -> Path:
    """A random model with tags in its tokenizer, and held-out questions of the laptop task."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    folder = tmp_path_factory.mktemp("task")
    many_ways.write(folder / "source", base=1, train=1, heldout=QUESTIONS, seed=1)
    tokenizer = many_ways.make_tokenizer(folder / "tokenizer")
    add_to_tokenizer(tokenizer, make_tags(tokenizer, "special", SLOTS, vocabulary_rows=128))
    tokenizer.save_pretrained(folder / "model")
    torch.manual_seed(1)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = Qwen2Config(vocab_size=128, num_key_value_heads=1, initializer_range=0.3, **shape)
    Qwen2ForCausalLM(config).save_pretrained(folder / "model")
    return folder


def command(task: Path, folder: Path, *urls: str) -> list[str]:
    engine = [f"engine.server.urls=[{','.join(urls)}]", "engine.server.retries=2", "engine.server.concurrency=4"]
    return [
        *(sys.executable, "recipes/evaluate.py", "experiment=tiny", *(["engine=server", *engine] if urls else [])),
        *(f"run.folder={task}", f"evaluation.folder={folder}", f"benchmarks.many_ways.rounds={ROUNDS}"),
        f"evaluation.systems=[{{model: {task / 'model'}, name: random}}]",
        *("evaluation.max_tokens=8", "evaluation.temperatures=[0]"),
    ]


def samples(folder: Path) -> list[dict]:
    lines = load_lines(folder / "many_ways" / "random-seed0" / "t0" / "samples.jsonl")
    return [{key: value for key, value in line.items() if key != "logprob"} for line in lines]


@pytest.fixture(scope="module")
def expected(task, tmp_path_factory) -> list[dict]:
    folder = tmp_path_factory.mktemp("in_process") / "run"
    finish(command(task, folder))
    return samples(folder)


def test_a_replica_lost_in_the_middle_changes_no_greedy_sample(task, expected, tmp_path):
    with LocalServer(task / "model") as steady, LocalServer(task / "model") as dying:
        steady.fault(delay=0.05)  # so that the other has its share
        dying.fault(die_after=10)
        finish(command(task, tmp_path / "run", steady.url, dying.url))
        dying.process.join(10)
        assert not dying.process.is_alive() and steady.seen() < len(expected)
    assert samples(tmp_path / "run") == expected
    settings = json.loads((tmp_path / "run/many_ways/random-seed0/t0/settings.json").read_text())
    assert settings["engine"]["engine"] == "server" and settings["engine"]["replicas"]


def test_a_client_killed_in_the_middle_asks_again_only_for_what_was_in_flight(task, expected, tmp_path):
    with LocalServer(task / "model") as server:
        server.fault(delay=0.05)
        line, partial = command(task, tmp_path, server.url), "many_ways/random-seed0/t0/samples.jsonl.partial"
        process = subprocess.Popen(
            line, cwd=CHECKOUT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        deadline = time.monotonic() + 100
        while not (tmp_path / partial).exists() or (tmp_path / partial).read_bytes().count(b"\n") < 40:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        kept = (tmp_path / partial).read_bytes().count(b"\n")
        server.fault()
        finish(line)
        assert server.seen() <= len(expected) - kept + 1
    assert samples(tmp_path) == expected


def test_without_a_server_it_says_so_and_keeps_what_there_is(task, tmp_path, capsys):
    said = refused(command(task, tmp_path / "run", "http://127.0.0.1:9"), capsys)
    assert "no vLLM server is left" in said and "127.0.0.1:9" in said


def test_without_the_demo_it_says_what_writes_the_questions(task, tmp_path, capsys):
    said = refused([*command(task, tmp_path / "run"), f"run.folder={tmp_path}"], capsys)
    assert "source/heldout.jsonl; recipes/reproduce.py writes it" in said
