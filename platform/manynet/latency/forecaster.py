"""Actor that predicts latencies of a search, and refits the predictor to new measurements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import ray

from manynet.devices import DeviceName, Measurement
from manynet.space.domains import Options
from manynet.space.search_space import Architecture

if TYPE_CHECKING:
    from manynet.latency.predictor import LatencyPredictor

FIRST = 20
"""Number of subnets measured before the first prediction."""
GROWTH = 1.1
"""Growth of the number of measurements that triggers a new fit."""
UNAVOIDABLE = 1.25
"""A deviation of up to so many times the measurement noise is always accepted."""


class Known(NamedTuple):
    """A measured subnet: its architecture, its multiply-adds and parameters, and its latency in ms."""

    architecture: Architecture
    costs: Sequence[float]
    milliseconds: float


class Forecaster:
    """Predicts latency on one device; requests a measurement where the prediction is uncertain.

    Args:
        domains: of the space.
        deviation: largest accepted deviation of a prediction, relative to it.
        known: existing measurements.
    """

    def __init__(self, domains: Mapping[str, Options], deviation: float, known: Sequence[Known]) -> None:
        self._domains = domains
        self._deviation = deviation
        self._known = list(known)
        self._predictor: LatencyPredictor | None = None
        self._template: Measurement | None = None

    @ray.method
    def ask(self, arch: Architecture, costs: Sequence[float]) -> Measurement | None:
        """Prediction for a subnet; None if it should be measured."""
        if self._template is None or len(self._known) < FIRST:
            return None
        predictor = self._fitted()
        prediction = predictor.predict([arch], [list(costs)])
        milliseconds, deviation = float(prediction.milliseconds[0]), float(prediction.deviation[0])
        if deviation > max(self._deviation, UNAVOIDABLE * predictor.noise):
            return None
        return replace(
            self._template,
            device=str(replace(DeviceName.parse(self._template.device), source="predicted")),
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
        """Add a measurement."""
        self._known.append(Known(dict(arch), list(costs), measured.milliseconds))
        self._template = measured

    def _fitted(self) -> LatencyPredictor:
        if self._predictor is None or len(self._known) >= GROWTH * self._predictor.count:
            # Every study imports this module, and few predict: SciPy's optimizers take half a second to import.
            from manynet.latency.predictor import LatencyPredictor

            archs, costs, times = zip(*self._known, strict=True)
            self._predictor = LatencyPredictor.fit(self._domains, archs, times, costs)
        return self._predictor
