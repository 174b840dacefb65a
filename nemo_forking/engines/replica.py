"""One `vllm serve` process over HTTP: is it well, what does it serve, a completion, fresh weights.

What may succeed later or elsewhere raises Trouble; what no retry mends raises UserError with the server's words.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from nemo_forking.engines.folder import context_length
from nemo_forking.engines.interface import Completion, Request
from nemo_forking.engines.wire import SURE, Trouble, from_answer, message_of, to_body
from nemo_forking.errors import UserError

LATER = {408, 409, 425, 429}  # besides everything from 500 on: worth another try
RELOAD_SECONDS = 1800.0  # the longest that reading a large model's weights may take
QUEUE_SECONDS = 600.0  # the longest that a probe's one token may wait behind others
BIRTH = re.compile(r"^process_start_time_seconds (\S+)$", re.MULTILINE)  # Prometheus' name for it, on Linux
ASKED = Request("probe", (0,), seed=0, max_tokens=1, temperature=1.0, allowed=(0,))


class Refusal(Exception):
    """An answer between 400 and 499 that no retry mends."""

    def __init__(self, status: int, message: str):
        super().__init__(f"answered {status}: {message}")
        self.status = status


@dataclass(frozen=True)
class Model:
    """What every replica must serve.

    Attributes:
        folder: where the weights lie, as this machine sees it.
        served: name the model is served under; None to find it by its folder.
        vocabulary: rows of its embedding.
        context: the most tokens of prompt and completion together; None where nothing limits them.
        logit_bias: the bans sent with requests.
    """

    folder: str
    served: str | None
    vocabulary: int
    context: int | None
    logit_bias: dict[str, float]


@dataclass(frozen=True)
class Weights:
    """Weights to be loaded: a folder may hold others each time, so that the number of the load tells them apart."""

    folder: str
    load: int


@dataclass(eq=False)
class Replica:
    """A server and what is known of it.

    Attributes:
        url: its address, without /v1.
        model: what it must serve.
        timeout: seconds one completion may take.
        patience: seconds a probe may take.
        wanted: the weights it must have; None for those it was started with.
        weights: those it last loaded; None where it may have lost them.
        born: when its process began, as it tells; None where it does not.
        failures: troubles in a row.
        well: nothing is known against it since it was last probed.
        http, lock: connections, and who may probe it, in the running event loop.
    """

    url: str
    model: Model
    timeout: float
    patience: float
    wanted: Weights | None = None
    weights: Weights | None = None
    born: str | None = None
    failures: int = 0
    well: bool = False
    name: str = ""
    context: int | None = None
    version: str = "unknown"
    http: aiohttp.ClientSession | None = field(default=None, repr=False)
    lock: asyncio.Lock | None = field(default=None, repr=False)

    async def probe(self) -> None:
        """Asks whether it is well, serves the model with the right weights, and answers as the engine needs it."""
        await self.alive()
        await self._find_model()
        try:
            self.version = str((await self._json("GET", "/version"))["version"])
        except (KeyError, TypeError, Refusal):
            self.version = "unknown"
        if self.weights != self.wanted:
            await self.reload()
        (logprob,) = (await self.complete(ASKED, min(self.timeout, QUEUE_SECONDS))).logprobs
        if abs(logprob) > SURE:
            raise UserError(
                f"{self.url} gives log-probabilities of the raw logits, not of the distribution tokens are drawn from; "
                "start it with --logprobs-mode processed_logprobs"
            )

    async def alive(self) -> None:
        """Asks whether it is well; one that was started anew has lost the weights it had loaded."""
        try:
            await self._ask("GET", "/health")
        except Refusal as refusal:
            raise Trouble(f"no vLLM server: {refusal}") from None
        born = await self._birth()
        if born != self.born:
            self.born, self.weights = born, None

    async def complete(self, request: Request, seconds: float | None = None) -> Completion:
        """The completion of one request, within so many seconds; None for the usual time."""
        room = request.max_tokens if self.context is None else self.context - len(request.prompt)
        body = to_body(request, self.name, room, self.model.logit_bias)
        try:
            answer = await self._json("POST", "/v1/completions", body, seconds or self.timeout)
        except Refusal as refusal:
            raise UserError(f"{self.url} refuses request {request.id}: it {refusal}") from None
        return from_answer(answer, request, self.model.vocabulary, room)

    async def reload(self) -> None:
        """Loads the wanted weights and forgets what was computed with the old ones."""
        wanted = self.wanted
        load = {"method": "reload_weights", "kwargs": {"weights_path": wanted.folder}}
        try:
            await self._ask("POST", "/collective_rpc", load, RELOAD_SECONDS)
            forgot = await self._json("POST", "/reset_prefix_cache?reset_running_requests=true")
        except Refusal as refusal:
            if refusal.status != 404:
                raise UserError(f"{self.url} does not take weights from {wanted.folder}: it {refusal}") from None
            raise UserError(
                f"{self.url} does not take new weights: start it with the environment variable VLLM_SERVER_DEV_MODE=1"
            ) from None
        except Trouble as trouble:
            if trouble.status != 500:
                raise
            # vLLM does not outlive a failed load, so that trying again would only hide the reason.
            raise UserError(
                f"{self.url} could not load {wanted.folder}; it must see the folder under that path. It {trouble}"
            ) from None
        if not (isinstance(forgot, dict) and forgot.get("success", True)):
            raise Trouble("it could not reset its prefix cache")
        self.weights = wanted

    def describe(self) -> dict:
        """Address, vLLM version, model and context, for provenance."""
        return {"url": self.url, "vllm": self.version, "model": self.name, "max_model_len": self.context}

    async def _birth(self) -> str | None:
        """When its process began; several API servers behind one address, or a gateway, do not tell."""
        try:
            found = BIRTH.search(await self._ask("GET", "/metrics"))
        except (Refusal, UserError):
            return None
        return found and found[1]

    async def _find_model(self) -> None:
        """Finds the model among those it serves."""
        try:
            cards = (await self._json("GET", "/v1/models"))["data"]
            by_name = {card["id"]: card for card in cards}
        except (KeyError, TypeError, Refusal):
            raise Trouble("it does not list its models as vLLM does") from None
        folder = os.path.realpath(self.model.folder)
        places = {name: {name, str(card.get("root"))} for name, card in by_name.items()}
        if self.model.served is not None:
            fitting = [self.model.served] if self.model.served in by_name else []
        else:
            fitting = [name for name, found in places.items() if folder in map(os.path.realpath, found)]
        if not fitting:
            listed = ", ".join(f"{name} ({by_name[name].get('root')})" for name in by_name) or "none"
            raise UserError(
                f"{self.url} does not serve {self.model.served or self.model.folder}; its models: {listed}. "
                "Start it on that folder, or name the one that has the same weights with engine.server.model"
            )
        self.name = fitting[0]
        longest = by_name[self.name].get("max_model_len")
        if self.context is not None and longest is not None and longest < self.context:
            raise UserError(f"{self.url} was started with --max-model-len {longest}; the run began with {self.context}")
        self.context = self.context or context_length(longest, self.model.context)

    async def _json(self, method: str, path: str, body: dict | None = None, seconds: float | None = None) -> Any:
        text = await self._ask(method, path, body, seconds)
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            raise Trouble(f"its answer to {path} is no JSON: {message_of(text)}") from None

    async def _ask(self, method: str, path: str, body: dict | None = None, seconds: float | None = None) -> str:
        """The body of an answer."""
        limit = aiohttp.ClientTimeout(total=seconds or self.patience)
        try:
            async with self.http.request(method, self.url + path, json=body, timeout=limit) as answer:
                status, text = answer.status, (await answer.read()).decode(errors="replace")
        except TimeoutError:
            self._doubt()
            raise Trouble(f"no answer to {path} within {limit.total:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            self._doubt()
            raise Trouble(f"no connection for {path} ({getattr(error, 'strerror', None) or error})") from None
        if status >= 500:
            self._doubt()
        if status >= 500 or status in LATER:
            raise Trouble(f"answered {path} with {status}: {message_of(text)}", status)
        if status in (401, 403):
            raise UserError(f"{self.url} wants an API key; give it in the environment variable VLLM_API_KEY")
        if status >= 400:
            raise Refusal(status, message_of(text))
        return text

    def _doubt(self) -> None:
        """It may have been started anew, with the weights it began with; one that tells its birth will tell that."""
        if self.born is None:
            self.weights = None


def session() -> aiohttp.ClientSession:
    """Connections of one run, one a request: a kept one may close just as it is used again."""
    secret = os.environ.get("VLLM_API_KEY") or os.environ.get("OPENAI_API_KEY")
    headers = {"Authorization": f"Bearer {secret}"} if secret else None
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, force_close=True), headers=headers)
