"""Interpolates times of operations within a family.

A family is a set of operations that differ in free sizes (channels, tokens, features) alone; see
:attr:`manynet.latency.operations.Operation.family`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from manynet.latency.operations import Operation

if TYPE_CHECKING:
    from scipy.interpolate import RBFInterpolator

Array = NDArray[np.float64]


class Family:
    """The measured operations of one family.

    Args:
        pattern: regular expression of their names, with a group for each free size.
        times: milliseconds by operation name, also of other families.
    """

    def __init__(self, pattern: str, times: Mapping[str, float]) -> None:
        names = [name for name in times if re.fullmatch(pattern, name)]
        self._pattern = pattern
        self._sizes = _sizes(pattern, names)
        self._times = np.array([times[name] for name in names])

    def spans(self, operation: Operation) -> bool:
        """Whether all its sizes are within the range of the measured operations."""
        if not len(self._times):
            return False
        sizes = _sizes(self._pattern, [str(operation)])
        return bool((sizes >= self._sizes.min(0)).all() and (sizes <= self._sizes.max(0)).all())

    def interpolate(self, operations: Sequence[Operation]) -> list[float]:
        """Interpolated milliseconds of operations that the family spans, clipped to the measured range.

        A power law (the logarithm of time is linear in those of the sizes), plus its residuals, which are
        interpolated by linear radial basis functions.
        """
        if not operations:
            return []
        places = self._features(_sizes(self._pattern, map(str, operations)))
        logs = places @ self._trend
        if self._residuals is not None:
            logs = logs + self._residuals(places[:, 1:])
        return [float(time) for time in np.clip(np.exp(logs), self._times.min(), self._times.max())]

    @cached_property
    def _varying(self) -> NDArray[np.intp]:
        """Sizes that vary, without duplicates: a bias has the sizes of its weight."""
        _, first = np.unique(self._sizes, axis=1, return_index=True)
        return np.sort(first[np.ptp(self._sizes, axis=0)[first] > 0])

    def _features(self, sizes: Array) -> Array:
        """Ones, then logarithms of the sizes that vary, ``(operations, 1 + sizes)``."""
        return np.hstack([np.ones((len(sizes), 1)), np.log(sizes[:, self._varying])])

    @cached_property
    def _trend(self) -> Array:
        """Coefficients of the power law, by least squares; of minimal norm where not determined."""
        coefficients: Array = np.linalg.lstsq(self._features(self._sizes), np.log(self._times), rcond=None)[0]
        return coefficients

    @cached_property
    def _residuals(self) -> RBFInterpolator | None:
        places = self._features(self._sizes)
        if len(self._varying) == 0:
            return None
        # Every study imports this module, and few use a table: it takes half a second to import.
        from scipy.interpolate import RBFInterpolator

        return RBFInterpolator(places[:, 1:], np.log(self._times) - places @ self._trend, kernel="linear")


def families(operations: Sequence[Operation]) -> dict[str, list[Operation]]:
    """Operations by the pattern of their family, in order."""
    grouped: dict[str, list[Operation]] = {}
    for operation in sorted(operations):
        grouped.setdefault(operation.family, []).append(operation)
    return grouped


def farthest_points(family: Sequence[Operation], count: int) -> list[Operation]:
    """Sample ``count`` of a family, or all, by farthest-point sampling in the logarithms of sizes.

    It starts with both ends of each size, so that the sample spans the family, even if these are more than ``count``.
    """
    places = np.log(_sizes(family[0].family, map(str, family)))
    picked = list(dict.fromkeys([0, *places.argmin(0).tolist(), *places.argmax(0).tolist()]))
    nearest = np.min([np.linalg.norm(places - places[index], axis=1) for index in picked], axis=0)
    while len(picked) < min(count, len(family)):
        picked.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, np.linalg.norm(places - places[picked[-1]], axis=1))
    return [family[place] for place in picked]


def _sizes(pattern: str, names: Iterable[str]) -> Array:
    """Free sizes of the operations of a family, by name, ``(operations, sizes)``."""
    matches = [re.fullmatch(pattern, name) for name in names]
    return np.array([[int(size) for size in match.groups()] for match in matches if match], float)
