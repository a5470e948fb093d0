"""Stratified split of a stream of rows, 8:1:1."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from manynet.data.base import generator
from manynet.data.hashing import GOLDEN, mix

SPLITS = ("train", "validation", "test")


class Stratifier:
    """Assigns rows to splits, in order of arrival.

    A class' rows are taken in tens. Of each ten, one row is drawn for validation and another for test, by
    numbers that depend only on the seed, the class and the number of the ten, not on the pieces of the stream.
    So the classes' shares are exact up to the last ten of each.
    """

    def __init__(self, seed: int) -> None:
        """Start.

        Args:
            seed: of the draws.
        """
        self._bases = generator("click splits", seed).integers(2**64, size=2, dtype=np.uint64)
        self._counts = [0, 0]

    def deal(self, labels: NDArray[np.uint8]) -> list[NDArray[np.intp]]:
        """Rows of each of :data:`SPLITS`, in order, for the next rows `(N,)` of the stream."""
        split = np.zeros(len(labels), np.uint8)
        for label, base in enumerate(self._bases):
            rows = np.flatnonzero(labels == label)
            ten, place = np.divmod(np.arange(len(rows), dtype=np.uint64) + np.uint64(self._counts[label]), 10)
            self._counts[label] += len(rows)
            draw = mix(mix(ten * GOLDEN) ^ base)
            validation = draw % 10
            test = (validation + 1 + (draw >> 32) % 9) % 10
            split[rows] = np.where(place == validation, 1, np.where(place == test, 2, 0))
        return [np.flatnonzero(split == number) for number in range(len(SPLITS))]
