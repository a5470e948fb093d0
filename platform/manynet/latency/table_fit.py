"""Fits a latency table to whole subnets, and tests it on others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from manynet.latency.operations import calls
from manynet.latency.table import LatencyTable
from manynet.records.rank_correlation import RankingQuality, kendall
from manynet.space.search_space import Architecture, SearchSpace

_STEADY = 0.05
_PRIOR = 1e-4


class MeasuredSubnet(NamedTuple):
    """A subnet measured as a whole: its architecture, and milliseconds."""

    arch: Architecture
    milliseconds: float


class Agreement(NamedTuple):
    """Agreement of a table's sums with whole subnets.

    Attributes:
        error: median absolute error, in percent of the measured latency.
        ranking: Kendall's tau between sums and measurements.
    """

    error: float
    ranking: RankingQuality

    def __str__(self) -> str:
        tau = self.ranking
        return (
            f"median absolute error {self.error:.1f}%, Kendall tau {tau.tau:.2f} [{tau.low:.2f}, {tau.high:.2f}] "
            f"over {tau.count} subnets"
        )


def agreement(table: LatencyTable, space: SearchSpace, wholes: Sequence[MeasuredSubnet]) -> Agreement:
    """Compare a table's sums with whole subnets, at least three, that it was not fitted to.

    Raises:
        LatencyTableError: when the table lacks a part of one.
        RankingError: for fewer than three subnets.
    """
    summed = np.array([table.milliseconds(space, whole.arch) for whole in wholes])
    measured = np.array([whole.milliseconds for whole in wholes])
    error = 100 * float(np.median(np.abs(summed / measured - 1)))
    return Agreement(error, kendall(summed.tolist(), measured.tolist()))


def fitted(table: LatencyTable, space: SearchSpace, wholes: Sequence[MeasuredSubnet]) -> LatencyTable:
    """The table with its factor, time of a call and time of a network fitted to whole subnets.

    Least squares of relative errors, with the soft L1 loss against outliers (errors far above 5%). Where the
    subnets do not determine all three, a weak prior keeps the factor at 1 and the times at 0.
    """
    alone = [_alone(table, space, whole.arch) for whole in wholes]
    measured = np.array([whole.milliseconds for whole in wholes])
    scale = np.median(np.concatenate(alone))

    def residuals(fit: NDArray[np.float64]) -> NDArray[np.float64]:
        factor, call, network = fit * (1, scale, scale)
        summed = network + np.array([np.maximum(0, factor * times + call).sum() for times in alone])
        return np.concatenate([summed / measured - 1, _PRIOR * (fit - (1, 0, 0))])

    bounds = ([0.01, -np.inf, 0], np.inf)
    optimum = least_squares(residuals, (1, 0, 0), bounds=bounds, loss="soft_l1", f_scale=_STEADY, xtol=1e-12)
    factor, call, network = optimum.x * (1, scale, scale)
    return table.model_copy(update={"factor": factor, "call": call, "network": network})


def _alone(table: LatencyTable, space: SearchSpace, arch: Architecture) -> NDArray[np.float64]:
    """Milliseconds of each operation of an architecture, run alone."""
    operations = [operation for call in calls(space, arch) for operation in call.operations if operation]
    return np.array([table.alone(operation) for operation in operations])
