"""vLLM itself, in process and over HTTP, against the transformers engine on one tiny checkpoint."""

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request as HttpRequest
from urllib.request import urlopen

import numpy as np
import pytest
import torch
from scipy import stats
from transformers import AutoModelForCausalLM

from nemo_forking.engines.dispatch import Pace
from nemo_forking.engines.server import ServerEngine
from nemo_forking.engines.transformers import TransformersEngine
from nemo_forking.engines.wire import to_body
from nemo_forking.errors import UserError
from tests.serving.conftest import check_greedy
from tests.serving.local_server import LocalServer
from tests.serving.requests import BANNED, TAGS, greedy_requests, make_request

pytestmark = pytest.mark.vllm
if importlib.util.find_spec("vllm") is None:
    pytest.skip("vLLM is not installed here: make test-vllm", allow_module_level=True)

# vLLM on a CPU: a small cache, one thread, no message home; in this process, since starting another costs a minute.
SETTINGS = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}
START_SECONDS = 600


@pytest.fixture(scope="module")
def in_process(checkpoint):
    """The vllm engine, opened once."""
    os.environ.update(SETTINGS)
    from nemo_forking.engines.vllm import VllmEngine

    with VllmEngine(
        checkpoint, device="cpu", dtype="float32", batch_size=8, gpu_memory=0.1, eager=True, banned=BANNED
    ) as engine:
        yield engine


@pytest.fixture(scope="module")
def vllm_serve(checkpoint, tmp_path_factory):
    """A real `vllm serve`, started as docs/engines.md says; its address is `url`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("vllm")), "serve", str(checkpoint), "--port", str(port)]
    command += ["--logprobs-mode", "processed_logprobs", "--dtype", "float32", "--enforce-eager"]
    command += ["--max-num-seqs", "8", "--gpu-memory-utilization", "0.1"]
    environment = os.environ | SETTINGS | {"VLLM_SERVER_DEV_MODE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
    log = tmp_path_factory.mktemp("serve") / "log"
    with log.open("w") as file:
        process = subprocess.Popen(
            command, env=environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        _wait_until_well(f"http://127.0.0.1:{port}", process, log)
        process.url = f"http://127.0.0.1:{port}"
        yield process
    finally:
        _end(process, signal.SIGTERM)


def _end(process, how):
    """Ends the server and the process of its engine."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, how)
    process.wait(60)


def _wait_until_well(url, process, log):
    give_up = time.monotonic() + START_SECONDS
    while time.monotonic() < give_up:
        try:
            with urlopen(url + "/health", timeout=10):
                return
        except (URLError, OSError):
            assert process.poll() is None, log.read_text()[-4000:]
            time.sleep(1)
    raise AssertionError(log.read_text()[-4000:])


@pytest.fixture(scope="module")
def over_http(checkpoint, vllm_serve):
    """The server engine on the real server."""
    return ServerEngine(checkpoint, [vllm_serve.url], concurrency=16, banned=BANNED)


@pytest.fixture(params=["in_process", "over_http"])
def engine(request):
    """vLLM, either way."""
    return request.getfixturevalue(request.param)


def test_greedy_output_equals_that_of_the_transformers_engine(checkpoint, engine):
    requests = greedy_requests(30)
    finished = engine.generate(requests)
    check_greedy(finished, TransformersEngine(checkpoint, banned=BANNED).generate(requests), tolerance=1e-3)


def test_a_sample_depends_on_its_seed_alone(engine):
    requests = [make_request(i, length=5 + i % 7) for i in range(24)]
    first = engine.generate(requests)
    assert [done.ids for done in engine.generate(requests[::-1])[::-1]] == [done.ids for done in first]
    others = engine.generate([replace(request, seed=request.seed + 1) for request in requests])
    assert sum(one.ids != other.ids for one, other in zip(first, others, strict=True)) > 20


def test_logprobs_are_those_of_the_processed_distribution(checkpoint, engine):
    """One forward over the whole sequence, with bans, temperature and top-p applied by hand."""
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    for done, request in zip(engine.generate(some := [make_request(i) for i in range(4)]), some, strict=True):
        with torch.inference_mode():
            logits = model(torch.tensor([[*request.prompt, *done.ids]])).logits[0].double().numpy()
        for step, (token, logprob) in enumerate(zip(done.ids, done.logprobs, strict=True)):
            row = logits[len(request.prompt) - 1 + step] / request.temperature
            row[list(BANNED)] = -np.inf
            share = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
            order = np.argsort(-share)
            kept = order[np.cumsum(share[order]) - share[order] < request.top_p]
            assert token in kept
            assert logprob == pytest.approx(np.log(share[token] / share[kept].sum()), abs=1e-3)


def test_the_model_draws_its_tag_among_the_allowed_ones_though_they_are_banned_elsewhere(checkpoint, engine):
    request = make_request(0, temperature=1.0, top_p=1.0, max_tokens=1, allowed=TAGS)
    finished = engine.generate([replace(request, id=str(seed), seed=seed) for seed in range(600)])
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    with torch.inference_mode():
        share = model(torch.tensor([request.prompt])).logits[0, -1, list(TAGS)].double().softmax(-1).numpy()
    counts = [sum(done.ids == [tag] for done in finished) for tag in TAGS]
    assert sum(counts) == 600
    assert stats.chisquare(counts, share * 600).pvalue > 0.01
    for done in finished[:20]:
        assert done.logprobs[0] == pytest.approx(np.log(share[TAGS.index(done.ids[0])]), abs=1e-3)


def test_fresh_weights_take_the_place_of_the_old_ones(checkpoint, other_checkpoint, tmp_path, engine):
    requests = greedy_requests()
    answers = {
        folder: [done.ids for done in TransformersEngine(folder, banned=BANNED).generate(requests)]
        for folder in (checkpoint, other_checkpoint)
    }
    assert answers[checkpoint] != answers[other_checkpoint]
    for folder in (other_checkpoint, checkpoint):
        engine.refresh(folder)
        assert [done.ids for done in engine.generate(requests)] == answers[folder]
        assert engine.describe()["weights"] == str(folder)
    with pytest.raises(UserError, match="no \\*.safetensors there"):
        engine.refresh(tmp_path)
    assert [done.ids for done in engine.generate(requests)] == answers[checkpoint]


def test_completions_come_one_by_one_and_leaving_the_stream_ends_the_rest(engine):
    stream = engine.stream(
        [make_request(0, max_tokens=1), *(make_request(i, max_tokens=200, stop=()) for i in range(1, 90))]
    )
    assert next(stream).request_id == "q0"
    stream.close()
    assert len(engine.generate([make_request(0)])) == 1


def test_what_the_engines_say_of_themselves(in_process, over_http, checkpoint, vllm_serve):
    described = in_process.describe()
    assert (described["engine"], described["dtype"], described["tensor_parallel"]) == ("vllm", "float32", 1)
    described = over_http.describe()
    assert described["replicas"][0]["url"] == vllm_serve.url and described["replicas"][0]["max_model_len"] == 256
    assert described["version"].startswith("vLLM 0.")
    assert 0 < time.time() - float(over_http.replicas[0].born) < START_SECONDS + 600  # what tells a restart


def test_wrong_devices_and_requests_are_named(checkpoint, in_process):
    from nemo_forking.engines.vllm import VllmEngine

    with pytest.raises(UserError, match="engine.device=cuda: the installed vLLM runs on cpu"):
        VllmEngine(checkpoint, device="cuda")
    with pytest.raises(UserError, match="request q0: the prompt has 256 tokens"):
        in_process.generate([make_request(0, length=256)])


def test_the_local_server_answers_with_the_fields_of_the_real_one(checkpoint, vllm_serve):
    body = to_body(make_request(0, max_tokens=3), str(checkpoint), 200, {"150": -100.0})
    bad = {**body, "prompt": body["prompt"] * 40}
    with LocalServer(checkpoint) as local:
        for path, sent in (("/v1/models", None), ("/version", None), ("/v1/completions", body)):
            ours, theirs = _ask(local.url + path, sent)[1], _ask(vllm_serve.url + path, sent)[1]
            assert _lacking(ours, theirs) == []
        for sent in (bad, {**body, "model": "another"}):
            (status, ours), (expected, theirs) = (
                _ask(local.url + "/v1/completions", sent),
                _ask(vllm_serve.url + "/v1/completions", sent),
            )
            assert status == expected and set(ours["error"]) <= set(theirs["error"])


def test_a_real_server_killed_half_way_costs_nothing(checkpoint, vllm_serve, caplog):
    """The last test of the real server."""
    requests = [make_request(i, temperature=0.0, max_tokens=200) for i in range(60)]
    with LocalServer(checkpoint) as local:
        local.fault(delay=0.5)
        urls = [vllm_serve.url, local.url]
        engine = ServerEngine(checkpoint, urls, concurrency=4, retries=1, pace=Pace(first=0.1), banned=BANNED)
        stream = engine.stream(requests)
        found = [next(stream)]
        _end(vllm_serve, signal.SIGKILL)
        local.fault()
        found += stream
    assert f"{vllm_serve.url} is dropped" in caplog.text
    by_id = {done.request_id: done.ids for done in found}
    reference = TransformersEngine(checkpoint, banned=BANNED).generate(requests)
    assert [by_id[request.id] for request in requests] == [done.ids for done in reference]


def _ask(url, body):
    """Status and JSON of an answer."""
    data = None if body is None else json.dumps(body).encode()
    process = HttpRequest(url, data, {"Content-Type": "application/json"})
    try:
        with urlopen(process, timeout=60) as answer:
            return answer.status, json.load(answer)
    except URLError as error:
        return error.code, json.load(error)


def _lacking(ours, theirs, where="") -> list[str]:
    """Fields of ours that theirs does not have, or has with another type."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        if where.endswith("top_logprobs[0]"):
            return []
        found = [f"{where}.{name}" for name in ours.keys() - theirs.keys()]
        return found + [
            lack
            for name in ours.keys() & theirs.keys()
            for lack in _lacking(ours[name], theirs[name], f"{where}.{name}")
        ]
    if isinstance(ours, list) and isinstance(theirs, list):
        return [
            lack
            for one, other in zip(ours[:1], theirs[:1], strict=True)
            for lack in _lacking(one, other, f"{where}[0]")
        ]
    return [] if ours is None or theirs is None or type(ours) is type(theirs) else [where]
