"""A small server that answers as `vllm serve` does, over the transformers engine, and fails when it is told to.

    with LocalServer(folder) as server:
        server.fault(die_after=3)      # see Faults
        ServerEngine(folder, [server.url])

Every server is a process of its own, so that it can be killed. It has the endpoints and the fields the server engine
uses, and refuses what vLLM refuses; tests/serving/test_vllm_engine.py holds it against a real one. As a command:
`python -m tests.serving.local_server FOLDER [--port 8000] [--no-dev-mode]`.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import signal
import threading
import time
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit
from urllib.request import Request as HttpRequest
from urllib.request import urlopen

VERSION = "0.0.0+local"
NEVER = 10**9
NO_JSON = {"no JSON": "<html>Bad gateway</html>", "nothing": "", "half of it": '{"choices": [{"index": 0,'}


@dataclass
class Faults:
    """What goes wrong with completions; probes (one allowed token) stay as they are, except where `probes` is set.

    Attributes:
        die_after: completions after which the process kills itself, in the middle of answering the next.
        delay: seconds every answer takes longer.
        hang: health checks are not answered any more either.
        status: answered instead of 200; the next `times` completions only.
        garbage: what the next `times` answers are: no JSON, or a completion spoiled in one of the ways of `spoil`.
        times: how many completions `status` and `garbage` spoil.
        length: only prompts of so many tokens are spoiled; 0 for all.
        probes: probes are spoiled too.
        blind: no folder of fresh weights is to be seen.
    """

    die_after: int = NEVER
    delay: float = 0.0
    hang: bool = False
    status: int = 0
    garbage: str = ""
    times: int = NEVER
    length: int = 0
    probes: bool = False
    blind: bool = False


class LocalServer:
    """A running server; leaving the context ends it.

    Args:
        folder: Hugging Face folder it serves.
        dev_mode: weights may be exchanged.
        max_length: its --max-model-len.
        raw_logprobs: log-probabilities of the raw logits, vLLM's default.
        api_key: asked of every client.
        tells_birth: it says when it began, as vLLM with one API server does.
        port: where it listens; 0 for any free port.
    """

    def __init__(
        self,
        folder,
        *,
        dev_mode: bool = True,
        max_length: int | None = None,
        raw_logprobs: bool = False,
        api_key: str | None = None,
        tells_birth: bool = True,
        port: int = 0,
    ):
        context = multiprocessing.get_context("forkserver")  # one import of torch for all servers
        context.set_forkserver_preload(
            ["nemo_forking.engines.transformers", "transformers.models.qwen2.modeling_qwen2"]
        )
        ours, theirs = context.Pipe()
        settings = {
            "dev_mode": dev_mode,
            "max_length": max_length,
            "raw_logprobs": raw_logprobs,
            "api_key": api_key,
            "tells_birth": tells_birth,
        }
        self.process = context.Process(target=serve, args=(str(folder), port, theirs), kwargs=settings, daemon=True)
        self.process.start()
        theirs.close()
        self.port = ours.recv()
        self.url = f"http://127.0.0.1:{self.port}"

    def fault(self, **changes) -> None:
        """From now on these things go wrong, and nothing else; none of them mends the server."""
        self._post("/faults", asdict(Faults(**changes)))

    def seen(self) -> int:
        """Completions asked for since the last fault(), without probes."""
        return self._seen("seen")

    def probes(self) -> int:
        """Probes answered since the last fault()."""
        return self._seen("probes")

    def loads(self) -> int:
        """Exchanges of weights since the last fault()."""
        return self._seen("loads")

    def peak(self) -> int:
        """The most completions that were in flight at once."""
        return self._seen("peak")

    def kill(self) -> None:
        """SIGKILL: connections break off and no more are taken."""
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.join()

    def __enter__(self) -> LocalServer:
        return self

    def __exit__(self, *raised) -> None:
        self.process.kill()
        self.process.join()

    def _seen(self, name: str) -> int:
        with urlopen(self.url + "/seen", timeout=30) as answer:
            return json.load(answer)[name]

    def _post(self, path: str, body: dict) -> None:
        data = json.dumps(body).encode()
        with urlopen(HttpRequest(self.url + path, data, {"Content-Type": "application/json"}), timeout=30):
            pass


class State:
    """What the handlers of one server share."""

    def __init__(
        self,
        folder: str,
        *,
        dev_mode: bool = True,
        max_length: int | None = None,
        raw_logprobs: bool = False,
        api_key: str | None = None,
        tells_birth: bool = True,
    ):
        from nemo_forking.engines.transformers import TransformersEngine

        self.folder, self.dev_mode, self.raw_logprobs, self.api_key = folder, dev_mode, raw_logprobs, api_key
        self.engine = TransformersEngine(folder, max_length=max_length)
        self.birth = time.time() if tells_birth else None
        self.faults, self.lock = Faults(), threading.Lock()
        self.loads = self.seen = self.probes = self.flying = self.peak = 0

    def forget(self, faults: Faults) -> None:
        """Begins to count anew, under these faults."""
        self.faults = faults
        self.loads = self.seen = self.probes = self.peak = 0

    def complete(self, body: dict) -> dict:
        """The answer to POST /v1/completions."""
        from nemo_forking.engines.interface import Request

        if body["model"] != self.folder:
            raise Refused(404, f"The model `{body['model']}` does not exist.")
        if len(body["prompt"]) + body["max_tokens"] > self.engine.context:
            raise Refused(400, f"This model's maximum context length is {self.engine.context} tokens.")
        allowed = body.get("allowed_token_ids") or []
        if biased := {int(i) for i, bias in (body.get("logit_bias") or {}).items() if bias <= -100}:
            allowed = [i for i in allowed or range(self.engine.vocabulary) if i not in biased]
        names = ("prompt", "seed", "max_tokens", "temperature", "top_p")
        stop = tuple(body["stop_token_ids"])
        request = Request("one", **{name: body[name] for name in names}, stop=stop, allowed=tuple(allowed))
        with self.lock:
            done = self.engine.generate([request])[0]
        return self._answer(body, done)

    def _answer(self, body: dict, done) -> dict:
        logprobs = [value - self.raw_logprobs for value in done.logprobs]
        tokens = [f"token_id:{i}" for i in done.ids]
        choice = {
            "index": 0,
            "text": "",
            "logprobs": {
                "text_offset": [0] * len(tokens),
                "token_logprobs": logprobs,
                "tokens": tokens,
                "top_logprobs": [{token: value} for token, value in zip(tokens, logprobs, strict=True)],
            },
            "finish_reason": done.finish_reason,
            "stop_reason": done.ids[-1] if done.finish_reason == "stop" else None,
            "token_ids": done.ids,
            "prompt_logprobs": None,
            "prompt_token_ids": body["prompt"],
        }
        asked, written = len(body["prompt"]), len(done.ids)
        usage = {"prompt_tokens": asked, "completion_tokens": written, "total_tokens": asked + written}
        kind = {"id": "cmpl-local", "object": "text_completion", "created": int(time.time()), "model": self.folder}
        return {**kind, "choices": [choice], "usage": usage}


class Refused(Exception):
    """An error the client is told of."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


class Handler(BaseHTTPRequestHandler):
    """One HTTP request."""

    state: State
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:  # noqa: N802
        """Health, models, version and metrics, as vLLM; what was seen, for tests."""
        state = self.state
        if state.faults.hang:
            time.sleep(NEVER)
        card = {"id": state.folder, "object": "model", "root": state.folder, "max_model_len": state.engine.context}
        found = {
            "/health": "",
            "/v1/models": {"object": "list", "data": [card]},
            "/version": {"version": VERSION},
            "/seen": {"seen": state.seen, "probes": state.probes, "peak": state.peak, "loads": state.loads},
        }
        if state.birth is not None:
            found["/metrics"] = f"# TYPE process_start_time_seconds gauge\nprocess_start_time_seconds {state.birth}\n"
        path = urlsplit(self.path).path
        if path.startswith("/v1") and not self._known():
            self._send(401, {"error": "Unauthorized"})
        elif path in found:
            self._send(200, found[path])
        else:
            self._send(404, {"detail": "Not Found"})

    def do_POST(self) -> None:  # noqa: N802
        """Completions and the endpoints of dev mode, as vLLM; faults, for tests."""
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or "{}")
        path = urlsplit(self.path).path
        try:
            if path == "/faults":
                self.state.forget(Faults(**body))
                self._send(200, "")
            elif path == "/v1/completions":
                self._counted(body)
            elif path == "/collective_rpc" and self.state.dev_mode:
                self._reload(body)
            elif path == "/reset_prefix_cache" and self.state.dev_mode:
                self._send(200, {"success": True})
            else:
                raise Refused(404, "Not Found")
        except Refused as error:
            self._send(
                error.status, {"error": {"message": str(error), "type": "BadRequestError", "code": error.status}}
            )

    def _reload(self, body: dict) -> None:
        """Weights from another folder."""
        if body["method"] != "reload_weights":
            raise Refused(400, "only reload_weights is here")
        try:
            with self.state.lock:
                folder = "/nowhere" if self.state.faults.blind else body["kwargs"]["weights_path"]
                self.state.engine.refresh(folder)
                self.state.loads += 1
        except ValueError as error:
            self._send(500, {"error": {"message": str(error)}})
        else:
            self._send(200, {"results": [None]})

    def _counted(self, body: dict) -> None:
        """A completion, or what the faults make of it; counted unless it is a probe."""
        state = self.state
        if not self._known():
            raise Refused(401, "Unauthorized")
        probe = body["max_tokens"] == 1 and len(body.get("allowed_token_ids") or ()) == 1
        with state.lock:
            state.seen += not probe
            state.probes += probe
            state.flying += 1
            state.peak = max(state.peak, state.flying)
        try:
            spoilt = probe <= state.faults.probes and state.faults.length in (0, len(body["prompt"]))
            answer = self._complete(body, state.faults if spoilt else Faults())
        finally:
            with state.lock:
                state.flying -= 1
        self._send(200, answer)

    def _complete(self, body: dict, faults: Faults) -> dict | str:
        if self.state.seen > faults.die_after:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(faults.delay)
        spoilt = faults.times > 0 and (faults.status or faults.garbage)
        faults.times -= 1
        if spoilt and faults.status:
            raise Refused(faults.status, "as it was told")
        if spoilt and faults.garbage in NO_JSON:
            return NO_JSON[faults.garbage]
        answer = self.state.complete(body)
        return spoil(answer, faults.garbage, self.state.engine.vocabulary) if spoilt else answer

    def _known(self) -> bool:
        """Whether the client may ask."""
        return self.state.api_key is None or self.headers.get("Authorization") == f"Bearer {self.state.api_key}"

    def _send(self, status: int, content: str | dict) -> None:
        data = content.encode() if isinstance(content, str) else json.dumps(content).encode()
        try:
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
        except ConnectionError:  # the client has given up on it
            self.close_connection = True

    def log_message(self, *arguments) -> None:
        """Says nothing."""


def spoil(answer: dict, how: str, vocabulary: int) -> dict:
    """An answer damaged in one way."""
    choice = answer["choices"][0]
    if how == "no ids":
        del choice["token_ids"]
    elif how == "ids outside the vocabulary":
        choice["token_ids"][-1] = vocabulary
    elif how == "logprobs of another length":
        choice["logprobs"]["token_logprobs"].append(-1.0)
    elif how == "logprobs of other tokens":
        choice["logprobs"]["tokens"].reverse()
    elif how == "logprobs that are no numbers":
        choice["logprobs"]["token_logprobs"][0] = float("nan")
    elif how == "logprobs above 0":
        choice["logprobs"]["token_logprobs"][0] = 2.5
    elif how == "a token lost":
        for values in (choice["token_ids"], choice["logprobs"]["tokens"], choice["logprobs"]["token_logprobs"]):
            del values[0]
    elif how == "no tokens":
        choice["token_ids"], choice["logprobs"]["tokens"], choice["logprobs"]["token_logprobs"] = [], [], []
        answer["usage"]["completion_tokens"] = 0
    elif how == "another prompt":
        choice["prompt_token_ids"] = [*choice["prompt_token_ids"], 0]
    elif how == "cut short":
        choice["finish_reason"] = "abort"
    elif how == "no choices":
        answer["choices"] = []
    else:
        raise ValueError(f"no such damage: {how}")
    return answer


def serve(folder: str, port: int, ready=None, **settings) -> None:
    """Serves until it is killed; sends its port to `ready`."""
    handler = type("BoundHandler", (Handler,), {"state": State(folder, **settings)})
    server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    server.daemon_threads = True
    if ready is not None:
        ready.send(server.server_address[1])
        ready.close()
    server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--no-dev-mode", action="store_true")
    chosen = parser.parse_args()
    serve(chosen.folder, chosen.port, dev_mode=not chosen.no_dev_mode)
