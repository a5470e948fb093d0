"""Times of operations between measured ones of their family.

A family is all operations that differ in free sizes (channels, tokens, features) alone; see
:attr:`manynet.latency.operations.Operation.family`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import RBFInterpolator

from manynet.latency.operations import Operation

Array = NDArray[np.float64]


class Family:
    """The measured operations of one family.

    Args:
        pattern: of their names, a group each free size.
        times: milliseconds of operations, by name; of any family.
    """

    def __init__(self, pattern: str, times: Mapping[str, float]) -> None:
        names = [name for name in times if re.fullmatch(pattern, name)]
        self._pattern = pattern
        self._sizes = _sizes(pattern, names)
        self._times = np.array([times[name] for name in names])

    def spans(self, operation: Operation) -> bool:
        """Whether none of its sizes is beyond those of the measured operations."""
        if not len(self._times):
            return False
        sizes = _sizes(self._pattern, [str(operation)])
        return bool((sizes >= self._sizes.min(0)).all() and (sizes <= self._sizes.max(0)).all())

    def between(self, operations: Sequence[Operation]) -> list[float]:
        """Milliseconds of operations that the family spans, from the least to the most that was measured.

        The logarithm of time is a linear function of those of the sizes, a power law, and what the measured
        operations are off it is interpolated by linear radial functions.
        """
        if not operations:
            return []
        places = self._places(_sizes(self._pattern, map(str, operations)))
        logs = places @ self._trend
        if self._residuals is not None:
            logs = logs + self._residuals(places[:, 1:])
        return [float(time) for time in np.clip(np.exp(logs), self._times.min(), self._times.max())]

    @cached_property
    def _kept(self) -> NDArray[np.intp]:
        """Sizes that vary, each once: a bias has those of its weight."""
        _, first = np.unique(self._sizes, axis=1, return_index=True)
        return np.sort(first[np.ptp(self._sizes, axis=0)[first] > 0])

    def _places(self, sizes: Array) -> Array:
        """Ones, then logarithms of the sizes that vary, ``(operations, 1 + sizes)``."""
        return np.hstack([np.ones((len(sizes), 1)), np.log(sizes[:, self._kept])])

    @cached_property
    def _trend(self) -> Array:
        """Coefficients of the power law, by least squares; the shortest where they are not determined."""
        found: Array = np.linalg.lstsq(self._places(self._sizes), np.log(self._times), rcond=None)[0]
        return found

    @cached_property
    def _residuals(self) -> RBFInterpolator | None:
        places = self._places(self._sizes)
        if len(self._kept) == 0:
            return None
        return RBFInterpolator(places[:, 1:], np.log(self._times) - places @ self._trend, kernel="linear")


def families(operations: Sequence[Operation]) -> dict[str, list[Operation]]:
    """Operations by the pattern of their family, in order."""
    found: dict[str, list[Operation]] = {}
    for one in sorted(operations):
        found.setdefault(one.family, []).append(one)
    return found


def apart(family: Sequence[Operation], count: int) -> list[Operation]:
    """``count`` of a family, or all: both ends of each size, so that they span it, though that be more than ``count``.

    Then, again and again, the one that is farthest from all so far, by the logarithms of sizes.
    """
    places = np.log(_sizes(family[0].family, map(str, family)))
    picked = list(dict.fromkeys([0, *places.argmin(0).tolist(), *places.argmax(0).tolist()]))
    nearest = np.min([np.linalg.norm(places - places[one], axis=1) for one in picked], axis=0)
    while len(picked) < min(count, len(family)):
        picked.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, np.linalg.norm(places - places[picked[-1]], axis=1))
    return [family[place] for place in picked]


def _sizes(pattern: str, names: Iterable[str]) -> Array:
    """Free sizes of the operations of a family, by name, ``(operations, sizes)``."""
    matches = [re.fullmatch(pattern, name) for name in names]
    return np.array([[int(size) for size in match.groups()] for match in matches if match], float)
