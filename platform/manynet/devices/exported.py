"""What devices export as metrics: how many networks wait for them, what they measured, how far they drifted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from manynet.devices.journal import Status
from manynet.telemetry import metrics


class DeviceMetrics:
    """Metrics that a device service exports through Ray."""

    def __init__(self) -> None:
        self._queue = metrics.gauge(metrics.QUEUE)
        self._drift, self._measured = metrics.gauge(metrics.DRIFT), metrics.gauge(metrics.MEASURED)

    def show(self, waiting: Mapping[str, int], statuses: Iterable[Status]) -> None:
        """Set them: networks that wait by the device's name, and how its actors are."""
        for device, count in waiting.items():
            self._queue.set(count, tags={"device": device})
        for status in statuses:
            tags = {"device": status.device, "actor": status.actor}
            self._drift.set(status.drift, tags=tags)
            self._measured.set(status.measured, tags=tags)
