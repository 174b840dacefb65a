"""Spreads requests over replicas that may fail, come back, or answer nonsense.

Every replica pulls requests as it finishes them, so a fast one does more. A request that failed at one replica goes to
another first. A replica that failed rests for a while, longer each time it fails again, and must pass a probe before
it is sent anything more; after too many failures in a row it is dropped, what it had goes to the others, and it is
probed again from time to time. A request that failed at one replica counts against no other: it may be the culprit.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from nemo_forking.engines.interface import Completion, Request
from nemo_forking.engines.replica import Replica
from nemo_forking.engines.wire import Trouble
from nemo_forking.errors import UserError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pace:
    """Seconds between tries.

    Attributes:
        first: rest after the first failure; it doubles with each further one.
        longest: the longest rest.
        again: between probes of a dropped replica.
        watch: between probes of a working replica, which find one that hangs.
        probe: how long a probe may take.
    """

    first: float = 0.5
    longest: float = 30.0
    again: float = 30.0
    watch: float = 30.0
    probe: float = 30.0

    def rest(self, failures: int) -> float:
        """Exponential back-off with jitter: between half and all of the doubled rest."""
        if failures == 0:
            return 0.0
        return min(self.longest, self.first * 2.0 ** (failures - 1)) * random.uniform(0.5, 1.0)


@dataclass(eq=False)
class Job:
    """A request under way: how often it failed, where, and how the last time."""

    request: Request
    failures: int = 0
    failed_at: set[str] = field(default_factory=set)
    trouble: str = ""


class Jobs:
    """What is still to be done."""

    def __init__(self, requests: Sequence[Request], live: set[str]):
        self.waiting = deque(Job(request) for request in requests)
        self.failed: list[Job] = []
        self.given_up: list[Job] = []
        self.left = len(requests)
        self.live = live
        self.news = asyncio.Event()
        self.done = asyncio.Event()

    async def take(self, url: str) -> Job:
        """The next job for this replica; waits until there is one. Those that failed elsewhere come first."""
        while True:
            for job in self.failed:
                if url not in job.failed_at or self.live <= job.failed_at:
                    self.failed.remove(job)
                    return job
            if self.waiting:
                return self.waiting.popleft()
            self.news.clear()
            await self.news.wait()

    def put_back(self, job: Job) -> None:
        """Takes back a job that was interrupted through no fault of its own."""
        self.failed.append(job) if job.failures else self.waiting.appendleft(job)
        self.news.set()

    def fail(self, job: Job, url: str, trouble: Trouble, retries: int) -> None:
        """Takes back a job that failed; it is given up after so many retries."""
        job.failures, job.trouble = job.failures + 1, f"{url}: {trouble}"
        job.failed_at.add(url)
        if job.failures > retries:
            self.given_up.append(job)
            self.finish()
        else:
            self.failed.append(job)
            self.news.set()

    def finish(self) -> None:
        """One job less."""
        self.left -= 1
        if not self.left:
            self.done.set()


class Dispatch:
    """One run of requests over all replicas.

    Args:
        replicas: connected to this run's HTTP session.
        requests: what is to be completed.
        emit: takes every completion as soon as it is there.
        concurrency: requests in flight at one replica.
        retries: times a failed request, or a failing replica, is tried again.
        pace: seconds between tries.
    """

    def __init__(
        self,
        replicas: Sequence[Replica],
        requests: Sequence[Request],
        emit: Callable[[Completion], None],
        *,
        concurrency: int,
        retries: int,
        pace: Pace,
    ):
        self.replicas, self.emit = replicas, emit
        self.concurrency, self.retries, self.pace = concurrency, retries, pace
        self.total = len(requests)
        self.live = {replica.url for replica in replicas}
        self.jobs = Jobs(requests, self.live)
        self.last_trouble: dict[str, str] = {}

    async def run(self) -> None:
        """Emits every completion.

        Raises:
            UserError: no replica is left, a replica refuses a request, or requests failed everywhere.
        """
        if not self.total:
            return
        try:
            async with asyncio.TaskGroup() as group:
                serving = [group.create_task(self._serve(replica)) for replica in self.replicas]
                await self.jobs.done.wait()
                for task in serving:
                    task.cancel()
        except BaseExceptionGroup as errors:
            raise _first(errors) from None
        if self.jobs.given_up:
            count, job = len(self.jobs.given_up), self.jobs.given_up[0]
            raise UserError(
                f"{count} of {self.total} requests failed {self.retries + 1} times each; {job.request.id} last at "
                f"{job.trouble}. All others are finished; the same command again tries these alone"
            )

    async def _serve(self, replica: Replica) -> None:
        """A replica's life, until the run's end: it works, is dropped when it fails too often, and may come back."""
        while True:
            try:
                await self._ready(replica)
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._watch(replica))
                    for _ in range(self.concurrency):
                        group.create_task(self._work(replica))
                        await asyncio.sleep(0)  # replicas start in turn, so that few requests are spread too
            except Trouble as trouble:
                self._drop(replica, trouble)
            except BaseExceptionGroup as errors:
                if not isinstance(trouble := _first(errors), Trouble):
                    raise
                self._drop(replica, trouble)
            await self._return(replica)

    async def _work(self, replica: Replica) -> None:
        """One of the requests in flight at a replica, again and again."""
        while True:
            await self._ready(replica)
            job, failures = await self.jobs.take(replica.url), replica.failures
            if not replica.well:  # it failed while this one waited for work
                self.jobs.put_back(job)
                continue
            try:
                completion = await replica.complete(job.request)
            except Trouble as trouble:
                suspect = job.failed_at <= {replica.url}  # else the job failed elsewhere too: a probe will tell
                self.jobs.fail(job, replica.url, trouble, self.retries)
                replica.well = False
                if suspect:
                    self._note(replica, trouble, failures)
            except asyncio.CancelledError:
                self.jobs.put_back(job)
                raise
            else:
                replica.failures = 0
                self.jobs.finish()
                self.emit(completion)

    async def _watch(self, replica: Replica) -> None:
        """Notices that a replica hangs long before its requests run out of time."""
        while True:
            await asyncio.sleep(self.pace.watch)
            failures = replica.failures
            try:
                await replica.alive()
            except Trouble as trouble:
                self._note(replica, trouble, failures)
                await self._ready(replica)

    async def _ready(self, replica: Replica) -> None:
        """Waits out a replica's rest and probes it; raises Trouble once it has failed too often."""
        async with replica.lock:
            while not replica.well:
                await asyncio.sleep(self.pace.rest(replica.failures))
                try:
                    await replica.probe()
                    replica.well = True
                except Trouble as trouble:
                    self._note(replica, trouble, replica.failures)
                except UserError as error:  # it came back as something else
                    raise Trouble(str(error)) from None

    def _note(self, replica: Replica, trouble: Trouble, failures: int) -> None:
        """Counts a failure, but requests that were in flight together and fail together count once."""
        replica.well = False
        if replica.failures == failures:
            replica.failures += 1
        if replica.failures > self.retries:
            raise trouble

    def _drop(self, replica: Replica, trouble: Trouble) -> None:
        self.live.discard(replica.url)
        self.last_trouble[replica.url] = str(trouble)
        replica.well = False
        if not self.live and self.jobs.left:
            finished = self.total - self.jobs.left - len(self.jobs.given_up)
            raise no_replica_left(self.last_trouble, f"{finished} of {self.total} completions are finished and kept")
        log.warning("%s is dropped (%s); its requests go to the %d left", replica.url, trouble, len(self.live))
        self.jobs.news.set()

    async def _return(self, replica: Replica) -> None:
        """Waits until a dropped replica passes a probe."""
        while not replica.well:
            await asyncio.sleep(self.pace.again)
            try:
                await replica.probe()
                replica.well = True
            except (Trouble, UserError) as trouble:
                self.last_trouble[replica.url] = str(trouble)
        log.warning("%s is back", replica.url)
        replica.failures = 0
        self.live.add(replica.url)


def no_replica_left(troubles: dict[str, str], progress: str) -> UserError:
    """What to say when there is no replica to work with."""
    each = "".join(f"\n  {url}: {trouble}" for url, trouble in troubles.items())
    return UserError(
        f"no vLLM server is left; {progress}. Start the servers again and repeat the same command to go on.{each}"
    )


def _first(errors: BaseExceptionGroup) -> BaseException:
    """The first error in nested groups; one that is no Trouble before those that are."""
    leaves = []
    for error in errors.exceptions:
        leaves.append(_first(error) if isinstance(error, BaseExceptionGroup) else error)
    return min(leaves, key=lambda error: isinstance(error, Trouble))
