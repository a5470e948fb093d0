"""How far the ranking by shared weights can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from manynet.errors import ManynetError

RESAMPLES = 10_000
FEWEST = 3
# Four anchors in perfect order are no evidence at 5% (exact two-sided p = 2/4!), though every resample agrees.
FEWEST_CONVINCING = 5


class RankingError(ManynetError, ValueError):
    """Ranking quality cannot be computed from what was given."""


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
        """Whether better shared scores do mean better architectures: interval above 0, from 5 anchors or more."""
        return self.low > 0 and self.count >= FEWEST_CONVINCING

    @property
    def verdict(self) -> str:
        """One line for people."""
        trust = "carries" if self.carries_search else "is too uncertain to carry"
        return f"{self}: the shared-weight ranking {trust} a search"

    def __str__(self) -> str:
        return f"tau {self.tau:.2f} [{self.low:.2f}, {self.high:.2f}] over {self.count} anchors"


def kendall(shared: Sequence[float], alone: Sequence[float], seed: int = 0) -> RankingQuality:
    """Kendall's tau-b between scores with shared weights and scores of the same architectures trained alone.

    The interval is the 2.5th to 97.5th percentile of tau over bootstrap resamples of the architectures (Efron &
    Tibshirani 1993, ch. 13). A resample in which either score is constant orders nothing, and counts as tau 0:
    leaving it out would make three anchors look certain.

    Args:
        shared: (n,) scores with shared weights.
        alone: (n,) scores trained alone, in the same order.
        seed: of the resampling.

    Raises:
        RankingError: the lengths differ, n < 3, or a score is not finite.
    """
    if len(shared) != len(alone):
        raise RankingError(f"anchors need both scores, but got {len(shared)} shared and {len(alone)} alone")
    if len(shared) < FEWEST:
        raise RankingError(f"ranking quality needs at least {FEWEST} anchors, but got {len(shared)}")
    scores = np.array([shared, alone], dtype=np.float64)
    if not np.isfinite(scores).all():
        raise RankingError(f"anchors' scores must be finite, but got {scores[~np.isfinite(scores)][0]}")
    tau = float(np.nan_to_num(stats.kendalltau(*scores).statistic))
    low, high = np.percentile(_resampled(scores, seed), [2.5, 97.5])
    return RankingQuality(tau, float(low), float(high), len(shared))


def _resampled(scores: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """tau-b of each resample: (RESAMPLES,).

    A resample is how often it drew each architecture, c. With s the signs of all differences of one score, its
    concordant less discordant pairs are c'(s1 * s2)c / 2, and its untied pairs of one score c'(s * s)c / 2.
    """
    count = scores.shape[1]
    draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
    counts = draws.astype(np.float64)
    first, second = np.sign(scores[:, :, None] - scores[:, None, :])
    agreement, untied, untied_too = (
        ((counts @ signs) * counts).sum(axis=1) for signs in (first * second, first**2, second**2)
    )
    scale = np.sqrt(untied * untied_too)
    taus: NDArray[np.float64] = np.divide(agreement, scale, out=np.zeros_like(scale), where=scale > 0)
    return taus
