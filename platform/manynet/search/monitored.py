"""A search's monitor actor, from its start to its end."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Literal

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from manynet.errors import ManynetError
from manynet.search.monitor import Monitor
from manynet.search.monitor_callback import MonitorCallback
from manynet.search.tally import SearchPlan
from manynet.telemetry import search_status as status
from manynet.telemetry.search_status import Member

SECONDS_TO_END = 60.0
PATIENCE = 15.0
"""Seconds to wait for the actor of a killed run to disappear."""


class MonitorError(ManynetError):
    """A search cannot be monitored."""


@contextmanager
def monitored(
    plan: SearchPlan, columns: Sequence[str], earlier: Sequence[Member]
) -> Iterator[MonitorCallback]:
    """Run a search's monitor actor during the block; yields the Tune callback that sends it results.

    Args:
        plan: describes the search.
        columns: result columns to send.
        earlier: evaluations of earlier starts, oldest first.

    Raises:
        MonitorError: when another run searches the same study now.
    """
    monitor = _start(plan, earlier)
    callback = MonitorCallback(monitor.note.remote, columns)
    state: Literal["ended", "stopped"] = "stopped"
    try:
        yield callback
        state = "ended"
    finally:
        _end(monitor, state, callback)


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
            # The name is taken; a killed run's name is free again soon.
            if time.monotonic() > deadline:
                raise MonitorError(
                    f"a study must be searched by one run at a time, but {plan.study} is being searched "
                    f"by another job of this cluster: wait, or stop it"
                ) from None
            time.sleep(0.5)


def _end(monitor: Any, state: Literal["ended", "stopped"], callback: MonitorCallback) -> None:
    # The actor, or Ray, may be gone already.
    with suppress(ray.exceptions.RayError, ConnectionError):
        try:
            ray.get(monitor.end.remote(state, callback.sent, callback.rest), timeout=SECONDS_TO_END)
        finally:
            # Also after a timeout: it must not overwrite the next search's status.
            ray.kill(monitor)
