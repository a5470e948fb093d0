"""Predicts latency of architectures, with its uncertainty, from few measurements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import block_diag

from manynet.errors import ManynetError
from manynet.latency.encoding import Encoding
from manynet.latency.gaussian_process import GaussianProcess, Kernel, Matrix, Vector
from manynet.records.rank_correlation import kendall_tau
from manynet.space.domains import Options

MIN_ARCHITECTURES = 10
FOLDS = 5
FOLD_STEPS = 15
"""Steps of a fold's fit, which starts from the fit to all measurements."""
REACHES = (3.0, np.inf)
"""Correlation lengths, in places of a network, of an option's effects."""
COVERAGE = 0.683
"""Share of errors within one deviation."""
HALF_SHRUNK = 50
"""Number of errors at which deviations are corrected by half."""
MIN_SHARE = 0.1
"""Lower bound of predictions, relative to the fastest measured time."""


class PredictorError(ManynetError, ValueError):
    """Latency cannot be predicted from these arguments."""


@dataclass(frozen=True)
class Prediction:
    """Latency of each of n architectures.

    Attributes:
        milliseconds: ``(n,)``.
        deviation: relative standard deviation of a measurement, ``(n,)``; about 68 % of errors are within it.
    """

    milliseconds: Vector
    deviation: Vector


@dataclass(frozen=True)
class LatencyPredictor:
    """A Gaussian process over architectures, of milliseconds or of their logarithm, whichever fits better.

    An option has an effect of its own, one correlated with the same option in near places of the network, and one shared
    by all places; all choices interact smoothly.

    Attributes:
        error: mean absolute relative error, cross-validated.
        tau: Kendall's tau between predicted and measured times, cross-validated.
        count: number of measured architectures.
        noise: relative deviation in the limit of many measurements, at the median time.
    """

    error: float
    tau: float
    count: int
    noise: float
    columns: _Columns
    scale: _Scale
    process: GaussianProcess
    widening: float

    @classmethod
    def fit(
        cls,
        domains: Mapping[str, Options],
        architectures: Sequence[Mapping[str, Any]],
        milliseconds: ArrayLike,
        costs: ArrayLike | None = None,
    ) -> LatencyPredictor:
        """Fit to measurements; deterministic for measurements in the same order.

        Args:
            domains: of the space.
            architectures: n measured ones, canonical; at least 10.
            milliseconds: of each, ``(n,)``.
            costs: further predictors, such as multiply-adds and parameters of each, ``(n, c)``, at least 0.

        Raises:
            PredictorError: for too few architectures, different lengths, a time not above 0, or a cost below 0.
            ArchitectureError: for an unknown key, or a value outside its domain.
        """
        times = _checked(architectures, milliseconds)
        columns = _Columns.of(domains, costs)
        rows = columns.rows(architectures, costs)
        scale, process = _best_scale(columns.kernel(rows), rows, times)
        means, deviations = _cross_validated(process)
        held_out = scale.prediction(means, deviations).milliseconds
        widening = _widening(np.abs(process.targets - means) / deviations)
        middle = scale.targets(np.median(times, keepdims=True))
        return cls(
            error=float(np.abs(held_out / times - 1).mean()),
            tau=kendall_tau(held_out, times),
            count=len(times),
            noise=float(scale.prediction(middle, widening * np.array([process.noise])).deviation[0]),
            columns=columns,
            scale=scale,
            process=process,
            widening=widening,
        )

    def predict(
        self, architectures: Sequence[Mapping[str, Any]], costs: ArrayLike | None = None
    ) -> Prediction:
        """Predict latency; ``costs`` are required if, and only if, it was fitted with them.

        Raises:
            PredictorError: for costs of another shape.
            ArchitectureError: for an unknown key, or a value outside its domain.
        """
        means, deviations = self.process.predict(self.columns.rows(architectures, costs))
        return self.scale.prediction(means, self.widening * deviations)


@dataclass(frozen=True)
class _Columns:
    """Encodes architectures and their costs as rows of numbers."""

    encoding: Encoding
    middle: Vector
    width: Vector

    @classmethod
    def of(cls, domains: Mapping[str, Options], costs: ArrayLike | None) -> _Columns:
        logs = _logarithms(costs)
        width = logs.std(axis=0) if logs.size else np.zeros(0)
        return cls(
            Encoding(domains),
            logs.mean(axis=0) if logs.size else np.zeros(0),
            np.where(width > 0, width, 1.0),
        )

    def rows(self, architectures: Sequence[Mapping[str, Any]], costs: ArrayLike | None) -> Matrix:
        rows = self.encoding.rows(architectures)
        if costs is None and not len(self.middle):
            return rows
        logs = _logarithms(costs)
        if logs.shape != (len(rows), len(self.middle)):
            raise PredictorError(
                f"costs must have a shape of {(len(rows), len(self.middle))}, as fitted, but got {logs.shape}"
            )
        return np.concatenate([rows, (logs - self.middle) / self.width], axis=1)

    def kernel(self, rows: Matrix) -> Kernel:
        """Linear in options, alone and correlated by place, and in costs; smooth in each choice and in costs."""
        encoding, costs = self.encoding, len(self.middle)
        similarities = [encoding.similarity(reach) for reach in REACHES] if encoding.repeats else []
        linear = [np.pad(metric, (0, costs)) for metric in (np.eye(encoding.width), *similarities)]
        if costs:
            linear.append(np.diag(np.repeat([0.0, 1.0], [encoding.width, costs])))
        places, groups = encoding.coordinates()
        return Kernel(
            linear=np.array([metric / _variance(metric, rows) for metric in linear]),
            places=block_diag(places, np.eye(costs) / 2),
            groups=np.append(groups, np.full(costs, groups.max() + 1)),
        )


def _variance(metric: Matrix, rows: Matrix) -> float:
    """Mean variance over rows, so that one prior fits all metrics; 1 where it is 0."""
    return float(np.einsum("nd,nd->n", rows @ metric, rows).mean()) or 1.0


@dataclass(frozen=True)
class _Scale:
    """Turns times into targets of mean 0 and variance 1, and back."""

    logarithmic: bool
    middle: float
    width: float
    least: float

    @classmethod
    def of(cls, times: Vector, logarithmic: bool) -> _Scale:
        values = np.log(times) if logarithmic else times
        return cls(
            logarithmic, float(values.mean()), float(values.std()) or 1.0, MIN_SHARE * float(times.min())
        )

    def targets(self, times: Vector) -> Vector:
        values = np.log(times) if self.logarithmic else times
        targets: Vector = (values - self.middle) / self.width
        return targets

    def log_jacobian(self, times: Vector) -> float:
        """Log determinant of the Jacobian of targets by times, which converts densities."""
        return float(-len(times) * np.log(self.width) - self.logarithmic * np.log(times).sum())

    def prediction(self, means: Vector, deviations: Vector) -> Prediction:
        values, spread = self.middle + self.width * means, self.width * deviations
        if self.logarithmic:
            return Prediction(np.exp(values), spread)
        times = np.maximum(values, self.least)
        return Prediction(times, spread / times)


def _best_scale(kernel: Kernel, rows: Matrix, times: Vector) -> tuple[_Scale, GaussianProcess]:
    """Scale with the higher evidence, milliseconds or their logarithm, and its process."""
    scales = [_Scale.of(times, logarithmic) for logarithmic in (True, False)]
    processes = [GaussianProcess.fit(kernel, rows, scale.targets(times)) for scale in scales]
    evidence = [p.evidence + s.log_jacobian(times) for s, p in zip(scales, processes, strict=True)]
    best = int(np.argmax(evidence))
    return scales[best], processes[best]


def _cross_validated(process: GaussianProcess) -> tuple[Vector, Vector]:
    """Held-out mean and deviation of each target, ``(n,)`` each."""
    means, deviations = np.empty_like(process.targets), np.empty_like(process.targets)
    folds = np.arange(len(means)) % FOLDS
    for fold in range(FOLDS):
        out = folds == fold
        fitted = GaussianProcess.fit(
            process.kernel, process.rows[~out], process.targets[~out], process.parameters, FOLD_STEPS
        )
        means[out], deviations[out] = fitted.predict(process.rows[out])
    return means, deviations


def _widening(errors: Vector) -> float:
    """Factor that calibrates deviations: a share of ``COVERAGE`` of errors, in deviations, is then within one.

    It is shrunk to 1 for few errors: its logarithm by half for ``HALF_SHRUNK`` errors.
    """
    factor: float = np.quantile(errors, COVERAGE) ** (len(errors) / (len(errors) + HALF_SHRUNK))
    return factor


def _checked(architectures: Sequence[Mapping[str, Any]], milliseconds: ArrayLike) -> Vector:
    times = np.asarray(milliseconds, dtype=float)
    if times.shape != (len(architectures),):
        raise PredictorError(
            f"each architecture must have one time, but got {len(architectures)} and times of shape {times.shape}"
        )
    if len(times) < MIN_ARCHITECTURES:
        raise PredictorError(
            f"a predictor must be fitted to at least {MIN_ARCHITECTURES} architectures, but got {len(times)}"
        )
    invalid = times[~(np.isfinite(times) & (times > 0))]
    if len(invalid):
        raise PredictorError(f"milliseconds must be above 0 and finite, but got {invalid[0]}")
    return times


def _logarithms(costs: ArrayLike | None) -> Matrix:
    """Logarithms of costs, ``(n, c)``, or ``(0, 0)`` without."""
    values = np.zeros((0, 0)) if costs is None else np.asarray(costs, dtype=float)
    if values.ndim != 2:
        raise PredictorError(f"costs must be (architectures, figures), but got a shape of {values.shape}")
    invalid = values[~(np.isfinite(values) & (values >= 0))]
    if len(invalid):
        raise PredictorError(f"costs must be at least 0 and finite, but got {invalid[0]}")
    logs: Matrix = np.log1p(values)
    return logs
