"""Policy for bad rows: stop, or count and skip them."""

from __future__ import annotations

from collections import Counter
from typing import Protocol

import pyarrow as pa

from manynet.data.base import DataError
from manynet.data.clicks.raw.bad_rows import Faults
from manynet.data.clicks.raw.layout import Columns


class Piece(Protocol):
    """Some rows of a file in any format."""

    @property
    def done(self) -> int:
        """Bytes of the file, as stored, read so far."""

    def read(self, columns: Columns) -> tuple[pa.Table, Faults]:
        """Labels and numbers as float64, texts as bytes, of the good rows; and the bad rows."""

    def describe(self, fault: tuple[int, str]) -> str:
        """Text of a bad row for error messages."""


class BadRowPolicy:
    """Counts rows; raises at bad ones unless they are skipped.

    Attributes:
        dropped: bad rows by reason.
    """

    def __init__(self, skip_bad: bool) -> None:
        """Start.

        Args:
            skip_bad: count bad rows instead of raising.
        """
        self.dropped: Counter[str] = Counter()
        self._rows = 0
        self._skip_bad = skip_bad

    def add(self, piece: Piece, good: int, faults: Faults) -> None:
        """Count a piece's rows.

        Raises:
            DataError: showing the first bad rows, unless they are skipped.
        """
        self._rows += good + faults.total
        self.dropped += faults.counts
        if faults.total and not self._skip_bad:
            shown = "".join(f"\n  {piece.describe(fault)}" for fault in faults.first)
            raise DataError(
                f"every row must be as its format says (skip_bad leaves out those that are not), but "
                f"{faults.total:,} of the first {self._rows:,} are not:{shown}"
            )
