"""Division of a split in two: which part an example belongs to follows from its row and a seed alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from manynet.data.base import DataError
from manynet.data.hashing import mix
from manynet.data.order import Rows


@dataclass(frozen=True)
class Part:
    """About a share of all rows, each drawn independently.

    Attributes:
        share: of the rows that are drawn, above 0 and below 1.
        seed: of the draws.
        drawn: whether this part has those that were drawn, or the others.
    """

    share: float
    seed: int
    drawn: bool

    def of(self, rows: Rows) -> Rows:
        """Those of ``rows`` that belong to this part, in their order."""
        return rows[self._belongs(rows)]

    def _belongs(self, rows: Rows) -> NDArray[np.bool_]:
        start = mix(np.array([self.seed], np.uint64))
        hashes = mix(rows.astype(np.uint64) + start)
        belongs: NDArray[np.bool_] = (hashes < np.uint64(self.share * 2**64)) == self.drawn
        return belongs


def parts(share: float, seed: int) -> tuple[Part, Part]:
    """The rows that are drawn, and the rest.

    Raises:
        DataError: as `Split.divided` says.
    """
    if not 0 < share < 1:
        raise DataError(f"share must be above 0 and below 1, but got {share}")
    return Part(share, seed, True), Part(share, seed, False)
