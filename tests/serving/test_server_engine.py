"""The server engine against servers of our own that die, dawdle, lie and come back."""

from dataclasses import replace

import pytest

from nemo_forking.engines.dispatch import Pace
from nemo_forking.engines.server import ServerEngine
from nemo_forking.engines.transformers import TransformersEngine
from nemo_forking.errors import UserError
from tests.serving.conftest import check_greedy
from tests.serving.local_server import LocalServer
from tests.serving.requests import BANNED, greedy_requests, make_request

FAST = Pace(first=0.01, longest=0.05, again=0.05, watch=0.1, probe=20.0)


@pytest.fixture(scope="module")
def expected(checkpoint):
    """What the transformers engine answers."""
    engine = TransformersEngine(checkpoint, banned=BANNED)
    return lambda requests: [done.ids for done in engine.generate(requests)]


def open_engine(checkpoint, servers, **changes):
    settings = {"banned": BANNED, "concurrency": 4, "timeout": 20.0, "retries": 2, "pace": FAST, **changes}
    return ServerEngine(checkpoint, [server.url for server in servers], **settings)


def ids(finished):
    return [done.ids for done in finished]


def sampled_requests(count=30):
    return [make_request(i, length=5 + i % 7, max_tokens=12) for i in range(count)]


def test_greedy_output_equals_that_of_the_transformers_engine(checkpoint, pair):
    requests = greedy_requests()
    finished = open_engine(checkpoint, pair).generate(requests)
    check_greedy(finished, TransformersEngine(checkpoint, banned=BANNED).generate(requests), tolerance=1e-4)


def test_a_sample_depends_on_its_seed_and_on_nothing_else(checkpoint, pair, expected):
    requests = sampled_requests()
    engine = open_engine(checkpoint, pair)
    first = engine.generate(requests)
    assert ids(first) == ids(engine.generate(requests[::-1])[::-1]) == expected(requests)
    assert ids(engine.generate([replace(request, seed=request.seed + 1) for request in requests])) != ids(first)


def test_requests_are_spread_and_bounded(checkpoint, pair):
    for server in pair:
        server.fault(delay=0.02)
    assert len(open_engine(checkpoint, pair, concurrency=3).generate(sampled_requests())) == 30
    assert [server.peak() for server in pair] == [3, 3]
    assert sum(server.seen() for server in pair) == 30 and min(server.seen() for server in pair) > 2


def test_a_completion_is_given_while_others_are_under_way_and_leaving_the_stream_ends_them(checkpoint, pair, expected):
    engine = open_engine(checkpoint, pair)
    for server in pair:
        server.fault(delay=600, length=33)
    stream = engine.stream([*sampled_requests(1), *(make_request(i, length=33) for i in range(100, 200))])
    assert next(stream).request_id == "q0"
    stream.close()
    assert sum(server.seen() for server in pair) <= 9
    for server in pair:
        server.fault()
    requests = sampled_requests(3)
    assert ids(engine.generate(requests)) == expected(requests)


def test_a_replica_that_kills_itself_half_way_costs_nothing(checkpoint, pair, expected, caplog):
    requests = sampled_requests()
    with LocalServer(checkpoint) as dying:
        engine = open_engine(checkpoint, [dying, pair[0]])
        dying.fault(die_after=5)
        assert ids(engine.generate(requests)) == expected(requests)
    assert f"{dying.url} is dropped" in caplog.text


def finish_with(returned, stream, other):
    """Finishes a stream; the other server is slow until the returned one has work."""
    found = []
    for done in stream:
        found.append(done)
        if returned.seen():
            other.fault()
    assert returned.seen()
    return found


def test_a_replica_killed_half_way_comes_back(checkpoint, pair, expected, caplog):
    requests = sampled_requests(60)
    pair[0].fault(delay=1.0)
    with LocalServer(checkpoint) as lost:
        lost.fault(delay=0.05)
        stream = open_engine(checkpoint, [lost, pair[0]]).stream(requests)
        found = [next(stream)]
        lost.kill()
        with LocalServer(checkpoint, port=lost.port) as returned:
            found += finish_with(returned, stream, pair[0])
    assert f"{lost.url} is dropped" in caplog.text and f"{lost.url} is back" in caplog.text
    by_id = {done.request_id: done.ids for done in found}
    assert [by_id[request.id] for request in requests] == expected(requests)


def test_a_slow_replica_does_less_and_one_out_of_time_nothing(checkpoint, pair, expected):
    requests = sampled_requests()
    pair[0].fault(delay=0.5)
    assert ids(open_engine(checkpoint, pair).generate(requests)) == expected(requests)
    assert 0 < pair[0].seen() < pair[1].seen()
    pair[0].fault(delay=600)
    assert ids(open_engine(checkpoint, pair, timeout=2.0).generate(requests)) == expected(requests)


def test_a_replica_that_hangs_is_noticed_long_before_its_requests_time_out(checkpoint, pair, expected, caplog):
    requests = sampled_requests()
    with LocalServer(checkpoint) as hanging:
        engine = open_engine(checkpoint, [hanging, pair[0]], timeout=10_000.0, pace=replace(FAST, probe=1.0))
        hanging.fault(delay=100_000)
        stream = engine.stream(requests)
        found = [next(stream)]
        hanging.fault(delay=100_000, hang=True)
        found += stream
    by_id = {done.request_id: done.ids for done in found}
    assert [by_id[request.id] for request in requests] == expected(requests)
    assert "no answer to /health within 1 s" in caplog.text


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 429},
        {"status": 500},
        {"status": 503},
        {"garbage": "no JSON"},
        {"garbage": "nothing"},
        {"garbage": "half of it"},
        {"garbage": "no choices"},
        {"garbage": "no ids"},
        {"garbage": "ids outside the vocabulary"},
        {"garbage": "logprobs of another length"},
        {"garbage": "logprobs of other tokens"},
        {"garbage": "logprobs that are no numbers"},
        {"garbage": "logprobs above 0"},
        {"garbage": "no tokens"},
        {"garbage": "a token lost"},
        {"garbage": "another prompt"},
        {"garbage": "cut short"},
    ],
    ids=lambda fault: str(*fault.values()),
)
def test_what_passes_is_tried_again(checkpoint, pair, expected, fault):
    requests = sampled_requests(8)
    engine = open_engine(checkpoint, pair[:1], concurrency=2)
    pair[0].fault(times=3, **fault)
    assert ids(engine.generate(requests)) == expected(requests)
    assert pair[0].seen() == len(requests) + 3


def test_a_replica_is_probed_at_first_and_when_it_failed_before_it_is_sent_anything_more(checkpoint, pair):
    engine = open_engine(checkpoint, pair[:1], concurrency=8)
    pair[0].fault(status=500, times=2)
    assert len(engine.generate([make_request(0)])) == 1
    assert (pair[0].seen(), pair[0].probes()) == (3, 3)


def test_a_replica_that_answers_nonsense_is_dropped(checkpoint, pair, expected, caplog):
    requests = sampled_requests()
    engine = open_engine(checkpoint, pair)
    pair[0].fault(garbage="ids outside the vocabulary", probes=True)
    assert ids(engine.generate(requests)) == expected(requests)
    assert f"{pair[0].url} is dropped (the answer has token ids outside" in caplog.text


def test_when_all_are_dead_what_is_finished_is_given_and_the_way_on_told(checkpoint, expected):
    requests = sampled_requests()
    with LocalServer(checkpoint) as one, LocalServer(checkpoint) as two:
        engine = open_engine(checkpoint, [one, two])
        one.fault(die_after=4)
        two.fault(die_after=6)
        found = []
        with pytest.raises(UserError) as raised:
            found.extend(engine.stream(requests))
    finished = {done.request_id: done.ids for done in found}
    message = str(raised.value)
    assert f"no vLLM server is left; {len(finished)} of 30 completions are finished" in message
    assert "repeat the same command" in message and one.url in message and two.url in message
    assert 0 < len(finished) <= 10
    for request, wanted in zip(requests, expected(requests), strict=True):
        assert finished.get(request.id, wanted) == wanted


def test_a_request_that_fails_everywhere_keeps_no_other_from_its_end(checkpoint, pair):
    requests = [*sampled_requests(10), make_request(99, length=33)]
    engine = open_engine(checkpoint, pair)
    for server in pair:
        server.fault(status=500, length=33)
    found = []
    with pytest.raises(UserError, match="1 of 11 requests failed 3 times each; q99 last at .*500: as it was told"):
        found.extend(engine.stream(requests))
    assert {done.request_id for done in found} == {request.id for request in requests[:-1]}


def test_what_a_server_refuses_is_told_in_its_words(checkpoint, pair):
    engine = open_engine(checkpoint, pair)
    pair[0].fault(status=400)
    with pytest.raises(UserError, match="refuses request q.*: it answered 400: as it was told"):
        engine.generate(sampled_requests())


def test_requests_are_checked_before_anything_is_sent(checkpoint, pair):
    with LocalServer(checkpoint, max_length=64) as short:
        engine = open_engine(checkpoint, [pair[0], short])
        with pytest.raises(UserError, match="request q1: the prompt has 64 tokens and the model's context is 64"):
            engine.stream([make_request(0), make_request(1, length=64)])
        with pytest.raises(UserError, match="160 vocabulary rows"):
            engine.stream([replace(make_request(0), prompt=(160,))])
        assert len(engine.generate([make_request(0, max_tokens=500, stop=())])[0].ids) == 64 - 9
        assert short.seen() + pair[0].seen() == 1


def test_a_server_of_another_model_is_refused(checkpoint, other_checkpoint, pair):
    with pytest.raises(
        UserError, match=rf"does not serve {other_checkpoint}; its models: {checkpoint} .*engine.server.model"
    ):
        open_engine(other_checkpoint, pair)
    with pytest.raises(UserError, match="does not serve gpt"):
        open_engine(checkpoint, pair, served="gpt")
    assert open_engine(other_checkpoint, pair, served=str(checkpoint)).describe()["replicas"][0]["model"] == str(
        checkpoint
    )


def test_servers_that_cannot_be_used_are_told_apart(checkpoint, monkeypatch):
    with LocalServer(checkpoint, raw_logprobs=True) as raw:
        with pytest.raises(UserError, match="--logprobs-mode processed"):
            open_engine(checkpoint, [raw])
        with pytest.raises(UserError, match="/other: no vLLM server: answered 404: Not Found"):
            ServerEngine(checkpoint, [raw.url + "/other"], pace=FAST)
    with LocalServer(checkpoint, api_key="secret") as locked:
        with pytest.raises(UserError, match="wants an API key.*VLLM_API_KEY"):
            open_engine(checkpoint, [locked])
        monkeypatch.setenv("VLLM_API_KEY", "secret")
        engine = open_engine(checkpoint, [locked])
        assert len(engine.generate(sampled_requests(2))) == 2
        assert "secret" not in str(engine.describe())
    with pytest.raises(
        UserError, match=rf"no vLLM server is left; nothing was asked yet.*\n  {locked.url}: no connection"
    ):
        open_engine(checkpoint, [locked])
    for urls, message in (
        (["node7:8000"], "no address"),
        (["http://a", "http://a/v1"], "twice"),
        ([], "names no server"),
    ):
        with pytest.raises(UserError, match=message):
            ServerEngine(checkpoint, urls)


def test_a_replica_that_is_not_up_yet_is_left_out_for_now(checkpoint, pair, expected, caplog):
    requests = sampled_requests(5)
    with LocalServer(checkpoint) as down:
        down.kill()
        engine = open_engine(checkpoint, [down, pair[0]])
    assert f"{down.url} is left out for now" in caplog.text
    assert ids(engine.generate(requests)) == expected(requests)


def test_fresh_weights_reach_every_replica_also_one_that_was_restarted_with_the_old_ones(
    checkpoint, other_checkpoint, expected
):
    requests = sampled_requests()
    wanted = ids(TransformersEngine(other_checkpoint, banned=BANNED).generate(requests))
    assert wanted != expected(requests)
    with LocalServer(checkpoint) as one, LocalServer(checkpoint) as two:
        engine = open_engine(checkpoint, [one, two])
        assert ids(engine.generate(requests)) == expected(requests)
        engine.refresh(other_checkpoint)
        assert ids(engine.generate(requests)) == wanted
        assert engine.describe()["weights"] == str(other_checkpoint)
        two.fault(delay=1.0)
        stream = engine.stream(requests)
        found = [next(stream)]
        one.kill()
        with LocalServer(checkpoint, port=one.port) as returned:
            found += finish_with(returned, stream, two)
    by_id = {done.request_id: done.ids for done in found}
    assert [by_id[request.id] for request in requests] == wanted


def test_weights_that_cannot_be_taken_are_named(checkpoint, other_checkpoint, tmp_path):
    with LocalServer(checkpoint, dev_mode=False) as server:
        engine = open_engine(checkpoint, [server])
        with pytest.raises(UserError, match="VLLM_SERVER_DEV_MODE=1"):
            engine.refresh(other_checkpoint)
        with pytest.raises(UserError, match="no \\*.safetensors there"):
            engine.refresh(tmp_path)
    with LocalServer(checkpoint) as server:
        engine = open_engine(checkpoint, [server])
        server.fault(blind=True)
        with pytest.raises(
            UserError, match=f"could not load {other_checkpoint}; it must see the folder.*with 500: /nowhere"
        ):
            engine.refresh(other_checkpoint)
