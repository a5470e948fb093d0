"""The actor that predicts latencies of a search, and learns from those that are measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import ray

from manynet.devices import DeviceName, Measurement
from manynet.latency.predictor import LatencyPredictor
from manynet.space.domains import Options
from manynet.space.search_space import Architecture

FIRST = 20
"""Subnets that are measured before any is predicted."""
GROWTH = 1.1
"""More measurements than at the last fit, as a factor, that ask for another."""
UNAVOIDABLE = 1.25
"""A prediction that deviates little more than measurements do among themselves is as good as one, as a factor."""


class Known(NamedTuple):
    """A subnet that was measured: its choices, its multiply-adds and parameters, and its time in ms."""

    architecture: Architecture
    costs: Sequence[float]
    milliseconds: float


class Forecaster:
    """Predicts the latency of one device, and asks for a measurement where it is unsure.

    Args:
        domains: of the space.
        deviation: that a prediction may have, as a share of it.
        known: measurements there are already.
    """

    def __init__(self, domains: Mapping[str, Options], deviation: float, known: Sequence[Known]) -> None:
        self._domains = domains
        self._deviation = deviation
        self._known = list(known)
        self._predictor: LatencyPredictor | None = None
        self._like: Measurement | None = None

    @ray.method
    def ask(self, arch: Architecture, costs: Sequence[float]) -> Measurement | None:
        """The prediction for a subnet, or None where it should be measured."""
        if self._like is None or len(self._known) < FIRST:
            return None
        predictor = self._fitted()
        found = predictor.predict([arch], [list(costs)])
        milliseconds, deviation = float(found.milliseconds[0]), float(found.deviation[0])
        if deviation > max(self._deviation, UNAVOIDABLE * predictor.noise):
            return None
        return replace(
            self._like,
            device=str(replace(DeviceName.parse(self._like.device), source="predicted")),
            milliseconds=milliseconds,
            spread=deviation,
            count=predictor.count,
            steady=True,
            source="predicted",
            actor="",
            drift=0.0,
            error=predictor.error,
            tau=predictor.tau,
        )

    @ray.method
    def tell(self, arch: Architecture, costs: Sequence[float], measured: Measurement) -> None:
        """Learn from a measurement."""
        self._known.append(Known(dict(arch), list(costs), measured.milliseconds))
        self._like = measured

    def _fitted(self) -> LatencyPredictor:
        if self._predictor is None or len(self._known) >= GROWTH * self._predictor.count:
            archs, costs, times = zip(*self._known, strict=True)
            self._predictor = LatencyPredictor.fit(self._domains, archs, times, costs)
        return self._predictor
