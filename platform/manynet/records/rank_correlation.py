"""Rank correlation between scores with shared weights and scores of anchors.

An anchor is an evaluated architecture that is also trained alone, to judge the supernet's ranking.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from manynet.errors import ManynetError

RESAMPLES = 10_000
FEWEST = 3
# Four anchors in perfect order are no evidence at 5% (exact two-sided p = 2/4!), though every resample agrees.
FEWEST_CONVINCING = 5


class RankingError(ManynetError, ValueError):
    """Ranking quality cannot be computed from the given scores."""


@dataclass(frozen=True)
class RankingQuality:
    """Agreement of two rankings of the same architectures.

    Attributes:
        tau: Kendall's tau-b: 1 is the same order, 0 unrelated, -1 the reverse.
        low, high: 95% confidence interval of ``tau``.
        count: number of architectures.
    """

    tau: float
    low: float
    high: float
    count: int

    @property
    def carries_search(self) -> bool:
        """Whether shared scores can guide a search: interval above 0, from 5 anchors or more."""
        return self.low > 0 and self.count >= FEWEST_CONVINCING

    @property
    def verdict(self) -> str:
        """One-line summary."""
        trust = "carries" if self.carries_search else "is too uncertain to carry"
        return f"{self}: the shared-weight ranking {trust} a search"

    def __str__(self) -> str:
        return f"tau {self.tau:.2f} [{self.low:.2f}, {self.high:.2f}] over {self.count} anchors"


@dataclass(frozen=True)
class Correlation:
    """A coefficient from -1 to 1 with its 95% confidence interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


def kendall_tau(first: ArrayLike, second: ArrayLike) -> float:
    """Kendall's tau-b of two scores of the same n things, each ``(n,)``: 0 where one of them is constant."""
    # It takes a second to import, and every process of a study imports this module.
    from scipy.stats import kendalltau

    return float(np.nan_to_num(kendalltau(first, second).statistic))


def kendall(
    shared: Sequence[float], alone: Sequence[float], seed: int = 0, resamples: int = RESAMPLES
) -> RankingQuality:
    """Kendall's tau-b between scores with shared weights and scores of the same architectures trained alone.

    The interval is the 2.5th to 97.5th percentile of tau over bootstrap resamples of the architectures (Efron &
    Tibshirani 1993, ch. 13). A resample in which either score is constant counts as tau 0: leaving it out would
    make three anchors look certain.

    Args:
        shared: (n,) scores with shared weights.
        alone: (n,) scores trained alone, in the same order.
        seed: of the resampling.
        resamples: number of resamples; time grows with it and with n squared.

    Raises:
        RankingError: the lengths differ, n < 3, or a score is not finite.
    """
    scores = _checked(shared, alone)
    tau = kendall_tau(*scores)
    low, high = np.percentile(_resampled_tau(scores, _counts(len(shared), seed, resamples)), [2.5, 97.5])
    return RankingQuality(tau, float(low), float(high), len(shared))


def pearson(shared: Sequence[float], alone: Sequence[float], seed: int = 0) -> Correlation:
    """Pearson's linear correlation of the same scores; arguments, interval and errors as :func:`kendall`."""
    scores = _checked(shared, alone)
    value = float(_weighted_pearson(scores, np.ones((1, len(shared))))[0])
    low, high = np.percentile(_weighted_pearson(scores, _counts(len(shared), seed)), [2.5, 97.5])
    return Correlation(value, float(low), float(high))


def _checked(shared: Sequence[float], alone: Sequence[float]) -> NDArray[np.float64]:
    if len(shared) != len(alone):
        raise RankingError(f"anchors need both scores, but got {len(shared)} shared and {len(alone)} alone")
    if len(shared) < FEWEST:
        raise RankingError(f"ranking quality needs at least {FEWEST} anchors, but got {len(shared)}")
    scores = np.array([shared, alone], dtype=np.float64)
    if not np.isfinite(scores).all():
        raise RankingError(f"anchors' scores must be finite, but got {scores[~np.isfinite(scores)][0]}")
    return scores


def _counts(count: int, seed: int, resamples: int = RESAMPLES) -> NDArray[np.float64]:
    """Multiplicity of each architecture in each resample: (resamples, n)."""
    draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples)
    return draws.astype(np.float64)


def _weighted_pearson(scores: NDArray[np.float64], counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pearson's coefficient of each resample, 0 where a score is constant: (R,)."""
    centred = scores - scores.mean(axis=1, keepdims=True)
    total = counts.sum(axis=1)
    first, second = (counts @ centred.T / total[:, None]).T
    covariance = counts @ (centred[0] * centred[1]) / total - first * second
    spread = [
        np.maximum(counts @ (values * values) / total - mean * mean, 0)
        for values, mean in zip(centred, (first, second), strict=True)
    ]
    scale = np.sqrt(spread[0] * spread[1])
    # For a constant score, rounding leaves a spread slightly above 0.
    least = 1e-12 * np.sqrt(np.prod((centred**2).mean(axis=1)))
    coefficients: NDArray[np.float64] = np.divide(
        covariance, scale, out=np.zeros_like(scale), where=scale > least
    )
    return np.clip(coefficients, -1, 1)


def _resampled_tau(scores: NDArray[np.float64], counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """tau-b of each resample: (R,).

    Let c be a resample's multiplicities, and s the signs of all differences of one score. Concordant minus
    discordant pairs are c'(s1 * s2)c / 2, and untied pairs of one score c'(s * s)c / 2.
    """
    first, second = np.sign(scores[:, :, None] - scores[:, None, :])
    agreement, untied, untied_too = (
        ((counts @ signs) * counts).sum(axis=1) for signs in (first * second, first**2, second**2)
    )
    scale = np.sqrt(untied * untied_too)
    taus: NDArray[np.float64] = np.divide(agreement, scale, out=np.zeros_like(scale), where=scale > 0)
    return taus
