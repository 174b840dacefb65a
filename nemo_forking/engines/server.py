"""Any number of `vllm serve` replicas over HTTP as one engine; docs/engines.md says how to start them."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from nemo_forking.engines.background import iterate, run
from nemo_forking.engines.dispatch import Dispatch, Pace, no_replica_left
from nemo_forking.engines.folder import check_banned, check_shapes, context_length, model_config, weight_shapes
from nemo_forking.engines.interface import Completion, Engine, Request, check_requests
from nemo_forking.engines.replica import Model, Replica, Weights, session
from nemo_forking.engines.wire import Trouble, bans
from nemo_forking.errors import UserError

log = logging.getLogger(__name__)


class ServerEngine(Engine):
    """Completions from replicas that all serve the same model.

    Replicas that fail are left out and taken back; see nemo_forking.engines.dispatch. None is used with other weights
    than the engine's: one that was lost or started anew after a refresh takes the fresh ones before it works again.

    Args:
        model: Hugging Face folder, the one the replicas were started on.
        urls: address of every replica, e.g. http://node7:8000.
        served: name the model is served under; None to find it by its folder.
        concurrency: requests in flight at one replica.
        timeout: seconds one completion may take.
        retries: times a failed request, or a failing replica, is tried again.
        max_length: the most tokens of prompt and completion together; None for the replicas' own limit.
        banned: token ids never drawn unless a request allows them.
        pace: seconds between tries.

    Raises:
        UserError: no replica answers, or one serves another model or in a way that cannot be used.
    """

    def __init__(
        self,
        model: str | Path,
        urls: Sequence[str],
        *,
        served: str | None = None,
        concurrency: int = 64,
        timeout: float = 3600.0,
        retries: int = 5,
        max_length: int | None = None,
        banned: Sequence[int] = (),
        pace: Pace | None = None,
    ):
        config = model_config(model)
        self.model, self.vocabulary = str(model), config["vocab_size"]
        self.concurrency, self.retries, self.pace = concurrency, retries, pace or Pace()
        check_banned(banned, self.vocabulary)
        limit = context_length(config.get("max_position_embeddings"), max_length)
        wanted = Model(self.model, served, self.vocabulary, limit, bans(banned))
        self.loads = 0
        self.replicas = [Replica(url, wanted, timeout, self.pace.probe) for url in _addresses(urls)]
        run(lambda: self._everywhere("nothing was asked yet"))
        known = [replica.context for replica in self.replicas if replica.context is not None]
        self.context = min(known, default=limit)
        for replica in self.replicas:
            replica.context = self.context

    def describe(self) -> dict:
        """Model, weights and every replica's address and version, for provenance."""
        known = {replica.version for replica in self.replicas} - {"unknown"}  # not of one that is down
        wanted = self.replicas[0].wanted
        return {
            "engine": "server",
            "version": ", ".join(sorted(f"vLLM {version}" for version in known or {"unknown"})),
            "model": self.model,
            "weights": wanted.folder if wanted else self.model,
            "dtype": "as served",
            "replicas": [replica.describe() for replica in self.replicas],
        }

    def stream(self, requests: Sequence[Request]) -> Iterator[Completion]:
        """Yields every completion once it is finished; see Engine.stream.

        Raises:
            UserError: a request that cannot be served, before anything is sent; or, after what could be finished has
                been yielded, no replica left, a request refused, or requests that failed at every try.
        """
        check_requests(requests, self.vocabulary, self.context)
        return iterate(lambda emit: self._dispatch(requests, emit))

    def refresh(self, folder: str | Path) -> None:
        """Has every replica load the weights of a folder that it can see under the same path; see Engine.refresh.

        A replica that cannot be reached loads them before it is used again.
        """
        check_shapes(weight_shapes(self.model), weight_shapes(folder), folder)
        self.loads += 1
        for replica in self.replicas:
            replica.wanted = Weights(os.path.realpath(folder), self.loads)
        run(lambda: self._everywhere(f"the weights of {folder} could not be loaded anywhere"))

    async def _dispatch(self, requests: Sequence[Request], emit: Callable[[Completion], None]) -> None:
        async with self._connected():
            dispatch = Dispatch(
                self.replicas, requests, emit, concurrency=self.concurrency, retries=self.retries, pace=self.pace
            )
            await dispatch.run()

    async def _everywhere(self, otherwise: str) -> None:
        """Probes every replica, which loads the weights that are wanted, until at least one is well."""
        async with self._connected():
            for failures in range(self.retries + 1):
                await asyncio.sleep(self.pace.rest(failures))
                troubles = dict(await asyncio.gather(*map(_probe, self.replicas)))
                if any(replica.well for replica in self.replicas):
                    break
            else:
                raise no_replica_left(troubles, otherwise)
        for url, trouble in troubles.items():
            if trouble:
                log.warning("%s is left out for now (%s)", url, trouble)

    @asynccontextmanager
    async def _connected(self):
        """The replicas with connections and locks of the running event loop; what was known of them may be old."""
        async with session() as http:
            for replica in self.replicas:
                replica.http, replica.lock, replica.well = http, asyncio.Lock(), False
            yield


async def _probe(replica: Replica) -> tuple[str, str]:
    """Its address, and what is wrong with it."""
    try:
        await replica.probe()
    except Trouble as trouble:
        return replica.url, str(trouble)
    replica.well, replica.failures = True, 0
    return replica.url, ""


def _addresses(urls: Sequence[str]) -> list[str]:
    addresses = [url.strip().rstrip("/").removesuffix("/v1") for url in urls]
    for url in addresses:
        if not url.startswith(("http://", "https://")):
            raise UserError(f"engine.server.urls: {url!r} is no address; write http://host:port")
        if addresses.count(url) > 1:
            raise UserError(f"engine.server.urls: {url} stands there twice")
    if not addresses:
        raise UserError("engine.server.urls names no server; give those of your replicas: docs/engines.md")
    return addresses
