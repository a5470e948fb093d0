"""Gaussian-process regression in closed form, with few hyper-parameters (Rasmussen & Williams 2006, ch. 2 and 5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cho_solve, cholesky, solve_triangular
from scipy.optimize import minimize

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]

CONSTANT = 1.0
"""Prior variance of the constant mean; targets have variance 1."""
LINEAR, SMOOTH, NARROWNESS, NOISE = (-3.0, 2.0), (-1.0, 2.0), (-1.5, 1.5), (-4.0, 2.0)
"""Mean and deviation of the prior of each kind of hyper-parameter, all of them logarithms."""
BOUNDS = (-12.0, 6.0)
CHUNK = 2048
"""Rows of one prediction batch, so that their covariances stay in the processor's cache."""


@dataclass(frozen=True)
class Kernel:
    """Covariance of two rows: v_1 x'M_1y + ... + v exp(-1/2 sum over groups g of w_g |P_g'x - P_g'y|^2).

    Attributes:
        linear: M, each ``(D, D)`` and positive semi-definite; together ``(J, D, D)``.
        places: P, ``(D, d)``.
        groups: which of G groups each column of P belongs to, ``(d,)``.
    """

    linear: Matrix
    places: Matrix
    groups: NDArray[np.int64]

    @cached_property
    def priors(self) -> tuple[Vector, Vector]:
        """Mean and deviation of log v_1..v_J, log v, log w_1..w_G and the noise's log variance."""
        count = int(self.groups.max(initial=-1)) + 1
        means, deviations = zip(
            *[LINEAR] * len(self.linear), SMOOTH, *[NARROWNESS] * count, NOISE, strict=True
        )
        return np.array(means), np.array(deviations)


@dataclass(frozen=True)
class GaussianProcess:
    """A posterior; targets have mean 0 and variance 1.

    Attributes:
        kernel: of the rows.
        rows: training inputs, ``(n, D)``.
        targets: training targets, ``(n,)``.
        parameters: logarithms of the hyper-parameters, as :attr:`Kernel.priors` orders them.
        evidence: log marginal likelihood of the targets, with the prior of the hyper-parameters.
    """

    kernel: Kernel
    rows: Matrix
    targets: Vector
    parameters: Vector
    evidence: float

    @classmethod
    def fit(
        cls, kernel: Kernel, rows: Matrix, targets: Vector, start: Vector | None = None, steps: int = 60
    ) -> GaussianProcess:
        """Maximise the evidence over hyper-parameters by L-BFGS, from ``start`` or the prior's mean."""
        evidence = _Evidence(kernel, rows, targets)
        optimum = minimize(
            evidence.loss,
            kernel.priors[0] if start is None else start,
            jac=True,
            method="L-BFGS-B",
            bounds=[BOUNDS] * len(kernel.priors[0]),
            options={"maxiter": steps, "ftol": 1e-6},
        )
        return cls(kernel, rows, targets, optimum.x, -float(optimum.fun))

    @property
    def noise(self) -> float:
        """Standard deviation of the noise, which more rows do not reduce."""
        return float(np.exp(self.parameters[-1] / 2))

    def predict(self, rows: Matrix) -> tuple[Vector, Vector]:
        """Mean and deviation of a target, noise included, at each row, ``(m,)`` each."""
        means, deviations = np.empty(len(rows)), np.empty(len(rows))
        for start in range(0, len(rows), CHUNK):
            part = slice(start, start + CHUNK)
            means[part], deviations[part] = self._predict(rows[part])
        return means, deviations

    def _predict(self, rows: Matrix) -> tuple[Vector, Vector]:
        """As :meth:`predict`; sums over columns are in single precision, which is twice as fast.

        The rounding error is a millionth of a target's variance, far below realistic noise. Products with the inverse
        of the covariance are in double precision, since they magnify rounding errors.
        """
        to_rows, squares, metric, places, inverse, weights = self._prepared
        rows = rows.astype(np.float32)
        linear, crossed = np.hsplit(rows @ to_rows, 2)
        halved = crossed - (squares + _squares(rows @ places)[:, None]) / 2
        smooth, noise = np.exp(self.parameters[[len(self.kernel.linear), -1]])
        across = linear + CONSTANT + smooth * np.exp(np.minimum(halved, 0), dtype=np.float64)
        own = np.einsum("nd,nd->n", rows @ metric, rows) + CONSTANT + smooth + noise
        # The noise is a lower bound, which rounding may violate.
        return across @ weights, np.sqrt(np.maximum(own - _squares(across @ inverse), noise))

    @cached_property
    def _prepared(self) -> tuple[Matrix, ...]:
        """Precomputed parts of predictions.

        Maps of a row to its covariance, linear and by places, with the training rows, ``(D, 2n)``; squared lengths of
        their places, ``(n,)``; the metrics' sum; the scaled places; R with RR' the inverse of their covariance,
        ``(n, n)``; and their weights in a mean, ``(n,)``.
        """
        kernel = self.kernel
        scales = np.exp(self.parameters)
        metric = np.tensordot(scales[: len(kernel.linear)], kernel.linear, 1)
        places = kernel.places * np.sqrt(scales[len(kernel.linear) + 1 : -1])[kernel.groups]
        at = self.rows @ places
        lower = cholesky(_Evidence(kernel, self.rows, self.targets).covariance(scales)[0], lower=True)
        inverse = solve_triangular(lower, np.eye(len(lower)), lower=True).T
        single = [np.hstack([metric @ self.rows.T, places @ at.T]), _squares(at), metric, places]
        return *(array.astype(np.float32) for array in single), inverse, inverse @ (inverse.T @ self.targets)


class _Evidence:
    """The marginal likelihood of hyper-parameters (Rasmussen & Williams 2006, eq. 5.8 and 5.9)."""

    def __init__(self, kernel: Kernel, rows: Matrix, targets: Vector) -> None:
        self.kernel = kernel
        self.targets = targets
        self.count = len(rows)
        self.linear = np.reshape([rows @ metric @ rows.T for metric in kernel.linear], (-1, self.count**2))
        places = rows @ kernel.places
        groups = [places[:, kernel.groups == group] for group in np.unique(kernel.groups)]
        self.halved = np.reshape([_halved(group) for group in groups], (-1, self.count**2))

    def covariance(self, scales: Vector) -> tuple[Matrix, Matrix]:
        """Covariance of the targets, and its smooth part, ``(n, n)`` each."""
        linear = len(self.linear)
        smooth = scales[linear] * np.exp(scales[linear + 1 : -1] @ self.halved)
        whole = scales[:linear] @ self.linear + smooth + CONSTANT
        whole[:: self.count + 1] += scales[-1]
        return whole.reshape(self.count, self.count), smooth

    def loss(self, parameters: Vector) -> tuple[float, Vector]:
        """Negative log evidence less its constant, and its gradient."""
        scales = np.exp(parameters)
        covariance, smooth = self.covariance(scales)
        means, deviations = self.kernel.priors
        away = (parameters - means) / deviations
        try:
            lower = cholesky(covariance, lower=True, check_finite=False)
        except LinAlgError:
            return 1e12, np.zeros_like(parameters)
        inverse = cho_solve((lower, True), np.eye(self.count), check_finite=False)
        weights = inverse @ self.targets
        loss = self.targets @ weights / 2 + np.log(np.diag(lower)).sum() + away @ away / 2
        slope = (inverse - np.outer(weights, weights)).ravel() / 2
        slopes: Sequence[Vector] = [
            self.linear @ slope,
            [slope @ smooth / scales[len(self.linear)]],  # type: ignore[list-item]
            self.halved @ (slope * smooth),
            [slope[:: self.count + 1].sum()],  # type: ignore[list-item]
        ]
        return float(loss), np.concatenate(slopes) * scales + away / deviations


def _halved(places: Matrix) -> Matrix:
    """-1/2 of the squared distances between rows ``(n, d)``: ``(n, n)``."""
    squares = _squares(places)
    return np.minimum(places @ places.T - (squares[:, None] + squares) / 2, 0)


def _squares(rows: Matrix) -> Vector:
    """Squared lengths, ``(n,)``."""
    lengths: Vector = np.einsum("nd,nd->n", rows, rows)
    return lengths
