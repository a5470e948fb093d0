"""Common form of published sets: architectures, and their latencies by device."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from manynet.devices import DeviceName, Measurement
from manynet.devices.timing import TOLERANCE
from manynet.errors import ManynetError

Choice: TypeAlias = int | float | str

# Interquartile range of a normal distribution, in standard deviations.
_QUARTILES = 1.349

_NO_TIME = "without a positive time"
_REPEATED = "repeated"


class PublishedError(ManynetError, ValueError):
    """A published set is not of its format, or cannot be written to its folder."""


@dataclass(frozen=True)
class PublishedNet:
    """One architecture of a set.

    Attributes:
        architecture: flat dict of its choices.
        metrics: ``accuracy`` (share), ``parameters``, ``macs``, where published.
        measurements: its latencies, at most one a device.
        details: further facts.
    """

    architecture: Mapping[str, Choice]
    metrics: Mapping[str, float]
    measurements: Sequence[Measurement]
    details: Mapping[str, Any]


@dataclass(frozen=True)
class PublishedSet:
    """A set of published latencies.

    Attributes:
        name: of the set.
        source: provenance, one line.
        licence: of the data.
        licences: contents of the licence files beside the data, by their names.
        metric: ``accuracy``, or None where the set has latencies alone.
        choices: options of each key of its architectures.
        devices: names, in the order of the source.
        nets: the architectures with at least one valid time.
        left_out: number of skipped rows, by device and by reason.
        by_layer: whether choices are operators of layers, so that latency may be a sum of their times.
    """

    name: str
    source: str
    licence: str
    licences: Mapping[str, bytes]
    metric: str | None
    choices: Mapping[str, Sequence[Choice]]
    devices: Sequence[str]
    nets: Sequence[PublishedNet]
    left_out: Mapping[str, Mapping[str, int]]
    by_layer: bool = False


class RowCollector:
    """Groups rows (an architecture on a device) by architecture.

    Attributes:
        left_out: number of skipped rows, by device and by reason.
    """

    def __init__(self) -> None:
        self.left_out: dict[str, Counter[str]] = {}
        self._times: dict[tuple[tuple[str, Choice], ...], dict[str, Measurement]] = {}
        self._rows: Counter[str] = Counter()

    def add(self, architecture: Mapping[str, Choice], measurement: Measurement) -> None:
        """Add a row, or count it as skipped; of repeated rows the first is kept."""
        device = measurement.device
        if not is_positive(measurement.milliseconds):
            self.skip(device)
            return
        times = self._times.setdefault(tuple(architecture.items()), {})
        if device in times:
            self.skip(device, _REPEATED)
            return
        self._rows[device] += 1
        times[device] = measurement

    def skip(self, device: str, reason: str = _NO_TIME) -> None:
        """Count a skipped row."""
        self._rows[device] += 1
        self.left_out.setdefault(device, Counter())[reason] += 1

    def devices(self) -> list[str]:
        """All devices, in order of arrival.

        Raises:
            PublishedError: for a device without any valid time.
        """
        for device, count in self._rows.items():
            if self.left_out.get(device, Counter())[_NO_TIME] == count:
                raise PublishedError(f"times must be positive, but none of the {count:,} of {device} is")
        return list(self._rows)

    def architectures(self) -> list[tuple[dict[str, Choice], list[Measurement]]]:
        """Each architecture with its measurements, in order of arrival."""
        return [(dict(items), list(times.values())) for items, times in self._times.items()]


def is_positive(value: float) -> bool:
    """Whether a number is a valid time or size: finite and more than 0."""
    return math.isfinite(value) and value > 0


def published_measurement(
    device: str,
    hardware: str,
    version: str,
    precision: str,
    milliseconds: float,
    batch: int = 1,
    deviation: float = 0.0,
) -> Measurement:
    """A measurement from published figures.

    Unpublished fields are 0 (threads, samples, and the spread where there is no deviation).

    Args:
        device: its name.
        hardware: what it was measured on and by whom, one line.
        version: of the deployment tool.
        precision: as published; ``amp`` is PyTorch's automatic mixed precision.
        milliseconds: of a run of the whole batch, ms.
        batch: examples in a run.
        deviation: standard deviation of ``milliseconds``, ms; becomes the interquartile range of a normal
            distribution.
    """
    spread = _QUARTILES * deviation / milliseconds if is_positive(deviation) and milliseconds > 0 else 0.0
    return Measurement(
        device=device,
        fingerprint=hardware,
        tool=DeviceName.parse(device).tool,
        tool_version=version,
        batch=batch,
        threads=0,
        precision=precision,
        milliseconds=milliseconds,
        spread=spread,
        count=0,
        steady=spread <= TOLERANCE,
        source="table",
    )


def milliseconds_per_example(measurement: Measurement) -> float:
    """Milliseconds per example: the time of a run divided by its batch."""
    return measurement.milliseconds / measurement.batch


def options(architectures: Sequence[Mapping[str, Choice]]) -> dict[str, list[Choice]]:
    """Options of each key, sorted, over architectures with the same keys."""
    return {key: sorted({arch[key] for arch in architectures}, key=_order) for key in architectures[0]}


def _order(value: Choice) -> tuple[str, float]:
    return (value, 0.0) if isinstance(value, str) else ("", value)
