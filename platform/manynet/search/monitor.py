"""The named actor of a search: hears of every candidate, and tells files, TensorBoard, metrics and people."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Literal

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from manynet.errors import ManynetError
from manynet.search.monitor_callback import Telling
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
"""Of the monitor's time that telling may take: a long search's hypervolume takes a second."""
SECONDS_BETWEEN_LINES = 10.0
SECONDS_TO_COME = 10.0
"""To wait at the end for batches that were sent before."""
SECONDS_TO_END = 60.0
PATIENCE = 15.0
"""Seconds to wait for the actor of a run that was killed to go."""


class MonitorError(ManynetError):
    """A search cannot be told of."""


class Monitor:
    """An asynchronous actor on the driver's node; the search goes on without it, should it die.

    Ray keeps no order of an asynchronous actor's calls: batches may come in any, and after the end.

    Args:
        plan: of the search.
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
        self._came, self._arrival = 0, asyncio.Condition()
        self._telling = Periodic(self._tell_again)

    def __repr__(self) -> str:
        return f"Search({self._plan.space}: {', '.join(map(str, self._plan.objectives))})"

    @ray.method
    async def note(self, batch: Sequence[Result]) -> None:
        """Take in a batch of candidates' results."""
        self._take(batch)
        async with self._arrival:
            self._came += 1
            self._arrival.notify_all()

    @ray.method
    async def status(self) -> dict[str, Any]:
        """The search as it is now: :class:`~manynet.telemetry.search_status.SearchStatus` as a dict."""
        return self._now().model_dump()

    @ray.method
    async def end(self, state: Literal["ended", "stopped"], sent: int, rest: Sequence[Result]) -> None:
        """Tell a last time, once all results are there.

        Args:
            state: to tell.
            sent: batches that were sent: those that are still to come are waited for, but not for long.
            rest: results that no batch held.
        """
        await self._wait_for(sent)
        self._take(rest)
        await self._telling.end()
        self._state = state
        await self._tell()
        await asyncio.to_thread(self._events.close)

    def _take(self, results: Sequence[Result]) -> None:
        for result in results:
            self._tally.add(result)
            self._metrics.count(result)

    async def _wait_for(self, sent: int) -> None:
        try:
            async with asyncio.timeout(SECONDS_TO_COME), self._arrival:
                await self._arrival.wait_for(lambda: self._came >= sent)
        except TimeoutError:
            print(f"cannot tell all: {sent - self._came} of {sent} batches did not come", flush=True)

    async def _tell_again(self) -> float:
        start = time.monotonic()
        await self._tell()
        return max(SECONDS_BETWEEN, (time.monotonic() - start) / SHARE_OF_TIME)

    async def _tell(self) -> None:
        """Tell all; never twice at a time, or the older could be written last."""
        await asyncio.to_thread(self._write, self._now())

    def _now(self) -> SearchStatus:
        # Never in the thread that tells: results are added meanwhile.
        return self._tally.status(time.time(), self._state)

    def _write(self, now: SearchStatus) -> None:
        before, self._status = self._status, now
        try:
            status.write(self._plan.study, now)
            if before is None or before.done != now.done:
                self._draw(now)
        except (ManynetError, OSError) as error:
            # What is told is a copy of what the ledger holds: no reason to end a search.
            print(f"cannot tell: {error}", flush=True)
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
    """Metrics that a search exports through Ray."""

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
        """Count a candidate that was evaluated."""
        if result.metrics:
            self._candidates.inc(1, tags=self._tags)

    def show(self, now: SearchStatus) -> None:
        """Set what rises and falls."""
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


@contextmanager
def monitored(plan: SearchPlan, columns: Sequence[str], earlier: Sequence[Member]) -> Iterator[Telling]:
    """A search's named actor while the block runs, and the Tune callback that tells it of candidates.

    Args:
        plan: of the search.
        columns: of a candidate's result that are told.
        earlier: evaluations of earlier starts, oldest first.

    Raises:
        MonitorError: when another run searches the same study now.
    """
    monitor = _start(plan, earlier)
    telling = Telling(monitor.note.remote, columns)
    state: Literal["ended", "stopped"] = "stopped"
    try:
        yield telling
        state = "ended"
    finally:
        _end(monitor, state, telling)


def _start(plan: SearchPlan, earlier: Sequence[Member]) -> Any:
    name = f"{status.PREFIX}{plan.study}"
    options: dict[str, Any] = {
        "name": name,
        "namespace": status.NAMESPACE,
        "num_cpus": 0,
        "scheduling_strategy": NodeAffinitySchedulingStrategy(
            ray.get_runtime_context().get_node_id(), soft=False
        ),
    }
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return ray.remote(Monitor).options(**options).remote(plan, earlier)
        except ValueError:
            # The name is taken; that of a run that was killed is free again soon.
            if time.monotonic() > deadline:
                raise MonitorError(
                    f"a study must be searched by one run at a time, but {plan.study} is being searched "
                    f"by another job of this cluster: wait, or stop it"
                ) from None
            time.sleep(0.5)


def _end(monitor: Any, state: Literal["ended", "stopped"], telling: Telling) -> None:
    # Where it is gone, or Ray is, nobody is left to tell.
    with suppress(ray.exceptions.RayError, ConnectionError):
        try:
            ray.get(monitor.end.remote(state, telling.sent, telling.rest), timeout=SECONDS_TO_END)
        finally:
            # Also one that did not answer in time: it must not write over what the next search tells.
            ray.kill(monitor)
