"""Named actor of a search: publishes results to status files, TensorBoard, Ray metrics and its log."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Literal

import ray

from manynet.errors import ManynetError
from manynet.search.tally import Result, SearchPlan, SearchTally
from manynet.storage import join
from manynet.telemetry import metrics
from manynet.telemetry import search_status as status
from manynet.telemetry.periodic import Periodic
from manynet.telemetry.search_status import Member, SearchStatus
from manynet.telemetry.tensorboard import Events

EVENTS = "search/tensorboard"
SECONDS_BETWEEN = 2.0
SHARE_OF_TIME = 0.05
"""Share of the monitor's time for publishing: a long search's hypervolume takes a second."""
SECONDS_BETWEEN_LINES = 10.0
SECONDS_FOR_BATCHES = 10.0
"""Wait at the end for batches that are still on their way."""


class Monitor:
    """Asynchronous actor on the driver's node; if it dies, the search continues without it.

    Ray does not order calls to asynchronous actors: batches may arrive in any order, and after ``end``.

    Args:
        plan: describes the search.
        earlier: evaluations of earlier starts, oldest first.
    """

    def __init__(self, plan: SearchPlan, earlier: Sequence[Member]) -> None:
        self._plan = plan
        self._tally = SearchTally(plan, earlier, at=time.time())
        self._state: Literal["searching", "ended", "stopped"] = "searching"
        self._events = Events(join(plan.study, EVENTS))
        self._metrics = SearchMetrics(plan)
        self._status: SearchStatus | None = None
        self._printed = 0.0
        self._received, self._arrival = 0, asyncio.Condition()
        self._publisher = Periodic(self._publish_again)

    def __repr__(self) -> str:
        return f"Search({self._plan.space}: {', '.join(map(str, self._plan.objectives))})"

    @ray.method
    async def note(self, batch: Sequence[Result]) -> None:
        """Take in a batch of candidates' results."""
        self._take(batch)
        async with self._arrival:
            self._received += 1
            self._arrival.notify_all()

    @ray.method
    async def status(self) -> dict[str, Any]:
        """Current status: :class:`~manynet.telemetry.search_status.SearchStatus` as a dict."""
        return self._now().model_dump()

    @ray.method
    async def end(self, state: Literal["ended", "stopped"], sent: int, rest: Sequence[Result]) -> None:
        """Publish a last time, once all results have arrived.

        Args:
            state: final state to publish.
            sent: number of batches sent; missing ones are awaited for a limited time.
            rest: results not yet sent in a batch.
        """
        await self._wait_for(sent)
        self._take(rest)
        await self._publisher.end()
        self._state = state
        await self._publish()
        await asyncio.to_thread(self._events.close)

    def _take(self, results: Sequence[Result]) -> None:
        for result in results:
            self._tally.add(result)
            self._metrics.count(result)

    async def _wait_for(self, sent: int) -> None:
        try:
            async with asyncio.timeout(SECONDS_FOR_BATCHES), self._arrival:
                await self._arrival.wait_for(lambda: self._received >= sent)
        except TimeoutError:
            print(f"incomplete: {sent - self._received} of {sent} batches did not arrive", flush=True)

    async def _publish_again(self) -> float:
        start = time.monotonic()
        await self._publish()
        return max(SECONDS_BETWEEN, (time.monotonic() - start) / SHARE_OF_TIME)

    async def _publish(self) -> None:
        """Publish the status; never concurrently, or an older one could be written last."""
        await asyncio.to_thread(self._write, self._now())

    def _now(self) -> SearchStatus:
        # Never in the publishing thread: results are added meanwhile.
        return self._tally.status(time.time(), self._state)

    def _write(self, now: SearchStatus) -> None:
        before, self._status = self._status, now
        try:
            status.write(self._plan.study, now)
            if before is None or before.done != now.done:
                self._draw(now)
        except (ManynetError, OSError) as error:
            # The ledger holds all results: no reason to end a search.
            print(f"cannot publish: {error}", flush=True)
        self._metrics.show(now)
        self._print(now)

    def _draw(self, now: SearchStatus) -> None:
        shown = {
            "hypervolume": now.hypervolume,
            "front size": len(now.front),
            "candidates per second": now.per_second,
            "evaluator idle share": now.idle_share,
            "failed": now.failed,
            **{f"best/{text}": best for text, best in self._best(now).items()},
        }
        for name, value in shown.items():
            if value is not None:
                self._events.scalar(name, value, now.done)
        self._events.flush()

    def _best(self, now: SearchStatus) -> dict[str, float]:
        """The best value of each objective on the front."""
        return {
            objective.column: (max if objective.maximise else min)(
                member.metrics[objective.column] for member in now.front
            )
            for objective in self._plan.objectives
            if now.front
        }

    def _print(self, now: SearchStatus) -> None:
        """A line in the actor's log, which the dashboard shows on the actor's page."""
        if now.state != "searching" or time.monotonic() - self._printed >= SECONDS_BETWEEN_LINES:
            self._printed = time.monotonic()
            print(now.line, flush=True)


class SearchMetrics:
    """Ray metrics of a search."""

    def __init__(self, plan: SearchPlan) -> None:
        self._tags = {"study": plan.study}
        self._candidates = metrics.counter(metrics.CANDIDATES)
        shown = (
            metrics.FAILURES,
            metrics.RATE,
            metrics.IDLE,
            metrics.HYPERVOLUME,
            metrics.FRONT,
            metrics.LEDGER,
            metrics.EVALUATIONS,
        )
        self._gauges = {definition: metrics.gauge(definition) for definition in shown}

    def count(self, result: Result) -> None:
        """Count an evaluated candidate."""
        if result.metrics:
            self._candidates.inc(1, tags=self._tags)

    def show(self, now: SearchStatus) -> None:
        """Set the gauges."""
        values = {
            metrics.FAILURES: now.failed,
            metrics.RATE: now.per_second,
            metrics.IDLE: now.idle_share,
            metrics.HYPERVOLUME: now.hypervolume,
            metrics.FRONT: len(now.front),
            metrics.LEDGER: now.done,
            metrics.EVALUATIONS: now.evaluations,
        }
        for definition, value in values.items():
            if value is not None:
                self._gauges[definition].set(value, tags=self._tags)
