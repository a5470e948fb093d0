"""Hash-based division of a split in two, determined by row and seed alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from manynet.data.base import DataError
from manynet.data.hashing import mix
from manynet.data.order import Rows


@dataclass(frozen=True)
class Part:
    """One of two parts of a split; each row is drawn independently.

    Attributes:
        share: probability that a row is drawn, above 0 and below 1.
        seed: of the draws.
        drawn: whether this part has the drawn rows, or the others.
    """

    share: float
    seed: int
    drawn: bool

    def of(self, rows: Rows) -> Rows:
        """The ``rows`` that belong to this part, in their order."""
        return rows[self._belongs(rows)]

    def _belongs(self, rows: Rows) -> NDArray[np.bool_]:
        start = mix(np.array([self.seed], np.uint64))
        hashes = mix(rows.astype(np.uint64) + start)
        belongs: NDArray[np.bool_] = (hashes < np.uint64(self.share * 2**64)) == self.drawn
        return belongs


def parts(share: float, seed: int) -> tuple[Part, Part]:
    """The drawn part, and the rest.

    Raises:
        DataError: see `Split.divided`.
    """
    if not 0 < share < 1:
        raise DataError(f"share must be above 0 and below 1, but got {share}")
    return Part(share, seed, True), Part(share, seed, False)
