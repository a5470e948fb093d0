"""Finds, counts and describes bad rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from manynet.data.clicks.raw.layout import Columns

Rows = NDArray[np.int64]
Mask = NDArray[np.bool_]
SHOWN = 5
_LONGEST = 40


class Faults:
    """Bad rows of one piece of a file.

    Attributes:
        counts: bad rows by reason: ``columns``, ``quotes``, ``line end``, ``label`` or ``number``.
        first: line or row number and description of the first few.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.first: list[tuple[int, str]] = []

    def add(self, reason: str, places: Rows, describe: Callable[[int], str]) -> None:
        """Record bad rows.

        Args:
            reason: of all of them.
            places: line or row numbers, in order.
            describe: gives the fault of the n-th of them.
        """
        if len(places):
            self.counts[reason] += len(places)
            shown = [(int(place), describe(at)) for at, place in enumerate(places[:SHOWN])]
            self.first = sorted(self.first + shown)[:SHOWN]

    @property
    def total(self) -> int:
        """Bad rows for any reason."""
        return sum(self.counts.values())


def is_sound(table: pa.Table, columns: Columns) -> bool:
    """Whether every label and number of a table is valid; see :func:`drop_bad_values`."""
    return not any(bad.any() for _, bad in _bad_values(table, columns))


def drop_bad_values(
    table: pa.Table, raw: pa.Table | pa.RecordBatch, places: Rows, columns: Columns, faults: Faults
) -> pa.Table:
    """Drop rows with an invalid label or number, and record them.

    Args:
        table: labels and numbers as float64: null where missing, NaN where not a number.
        raw: their original values, for messages.
        places: line or row number of each row.
        columns: roles of the columns.
        faults: collects the bad rows; a row with several faults counts for the first.
    """
    good = np.ones(len(table), bool)
    for name, bad in _bad_values(table, columns):
        rows = np.flatnonzero(bad & good)
        is_label = name == columns.label
        describe = partial(_describe, raw.column(name), rows, f"{name} must be {_rule(is_label, columns)}")
        faults.add("label" if is_label else "number", places[rows], describe)
        good &= ~bad
    return table if good.all() else table.filter(pa.array(good))


def _describe(raw: pa.ChunkedArray, rows: Rows, rule: str, at: int) -> str:
    value = raw[int(rows[at])].as_py()
    return f"{rule}, but is {'missing' if value in (None, b'') else _quoted(value)}"


def _quoted(value: object) -> str:
    text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    return repr(text if len(text) <= _LONGEST else text[:_LONGEST] + "...")


def _rule(is_label: bool, columns: Columns) -> str:
    if not is_label:
        return "a finite number"
    return "a count" if columns.counts else "0 or 1"


def _bad_values(table: pa.Table, columns: Columns) -> Iterator[tuple[str, Mask]]:
    for name in columns.numbers:
        is_label = name == columns.label
        # A missing feature counts as 0; a missing label is bad.
        filled = pc.fill_null(table.column(name), -1.0 if is_label else 0.0)
        numbers: NDArray[np.float64] = filled.to_numpy()
        good: Mask = np.isfinite(numbers)
        if is_label:
            good &= (numbers >= 0) & (numbers == np.floor(numbers))
        if is_label and not columns.counts:
            good &= numbers <= 1
        yield name, ~good
