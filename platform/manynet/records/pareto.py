"""Pareto fronts and hypervolumes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

# Optuna's exact hypervolume is private API; `_volume` is its only use.
from optuna._hypervolume import compute_hypervolume

from manynet.errors import ManynetError

Floats: TypeAlias = NDArray[np.float64]
Point: TypeAlias = Sequence[float] | Floats
Points: TypeAlias = Sequence[Point] | Floats


class ParetoError(ManynetError, ValueError):
    """Shapes of points, directions or a reference point do not match."""


def front(values: Points, maximise: Sequence[bool]) -> NDArray[np.intp]:
    """Indices of the non-dominated rows, in ascending order.

    Of equal rows the first is kept; a row with a NaN is never on the front.

    Args:
        values: one row a point, one column an objective: (N, M).
        maximise: for each objective, whether larger is better: (M,).

    Returns:
        (F,) indices into ``values``.

    Raises:
        ParetoError: the shapes do not agree.
    """
    losses = _losses(values, maximise)
    known = np.flatnonzero(~np.isnan(losses).any(axis=1))
    distinct, first = np.unique(losses[known], axis=0, return_index=True)
    # In lexicographic order no row is dominated by a later one, so the first remaining row is on the front.
    remaining, members = np.arange(len(distinct)), []
    while len(remaining):
        members.append(remaining[0])
        remaining = remaining[(distinct[remaining] < distinct[remaining[0]]).any(axis=1)]
    return np.sort(known[first[np.array(members, dtype=np.intp)]])


def hypervolume(values: Points, maximise: Sequence[bool], reference: Point) -> float:
    """Exact hypervolume of ``values`` up to ``reference`` (While et al. 2012, doi:10.1109/TEVC.2010.2077298).

    Args:
        values: (N, M); points that do not dominate the reference add nothing.
        maximise: for each objective, whether larger is better: (M,).
        reference: (M,), in the objectives' own units.

    Raises:
        ParetoError: the shapes do not agree, or the reference is not finite.
    """
    losses, corner = _losses(values, maximise), _losses([reference], maximise)[0]
    if not np.isfinite(corner).all():
        raise ParetoError(f"the reference point must be finite, but got {reference}")
    return _volume(losses[(losses <= corner).all(axis=1)], corner)


def hypervolume_curve(
    values: Points, maximise: Sequence[bool], box: tuple[Point, Point] | None = None
) -> Floats:
    """Hypervolume after each point, as a share of the box between the ideal and the nadir point.

    Args:
        values: (N, M), in order of evaluation; rows that are not finite do not change the curve.
        maximise: for each objective, whether larger is better: (M,).
        box: the ideal and the nadir point, (M,) each; by default the best and the worst value of each
            objective. Only curves of the same box can be compared.

    Returns:
        (N,) shares: 0 to 1, or above if points are better than the ideal of ``box``.

    Raises:
        ParetoError: the shapes do not agree.
    """
    losses = _losses(values, maximise)
    known = np.flatnonzero(np.isfinite(losses).all(axis=1))
    if not len(known):
        return np.zeros(len(losses))
    ideal, nadir = (
        (losses[known].min(axis=0), losses[known].max(axis=0)) if box is None else _losses(box, maximise)
    )
    span = nadir - ideal
    # A constant objective gives the box no extent: it must not make every volume zero.
    scaled = np.where(span > 0, (losses - ideal) / np.where(span > 0, span, 1.0), 0.0)
    return np.cumsum(_gains(np.minimum(scaled, 1.0), known))


def _gains(losses: Floats, known: NDArray[np.intp]) -> Floats:
    """Hypervolume that each point adds to the points before it, up to the all-ones corner: (N,)."""
    corner = np.ones(losses.shape[1])
    gains, archive = np.zeros(len(losses)), np.empty((0, losses.shape[1]))
    for index in known:
        point = losses[index]
        if (archive <= point).all(axis=1).any():
            continue
        # Subtract the part of the point's box that others dominate: far fewer points than the whole front.
        gains[index] = np.prod(corner - point) - _volume(np.maximum(archive, point), corner)
        archive = np.vstack([archive[~(point <= archive).all(axis=1)], point])
    return gains


def _losses(values: Points, maximise: Sequence[bool]) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    signs = np.where(np.asarray(maximise, dtype=bool), -1.0, 1.0)
    if array.size == 0:
        array = array.reshape(-1, len(signs)) if len(signs) else array
    if array.ndim != 2 or array.shape[1] != len(signs) or not len(signs):
        raise ParetoError(f"values must be (N, {len(signs)}), one column a direction, but got {array.shape}")
    return array * signs


def _volume(losses: Floats, corner: Floats) -> float:
    return float(compute_hypervolume(losses, corner)) if len(losses) else 0.0
