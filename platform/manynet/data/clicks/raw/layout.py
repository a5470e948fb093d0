"""Layout of a raw log: its columns, and the features made from them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from manynet.data.base import DataError
from manynet.data.features import Categorical, Features


@dataclass(frozen=True)
class Columns:
    """The raw columns that are read.

    Attributes:
        label: its column; empty for a file without one.
        dense: columns of numbers.
        texts: columns of texts.
        lists: multi-valued columns of `texts`, and the separator of each (in Parquet they are lists).
        counts: labels are counts, and more than 0 is 1.
    """

    label: str = ""
    dense: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    lists: Mapping[str, str] = field(default_factory=dict)
    counts: bool = False

    @property
    def numbers(self) -> tuple[str, ...]:
        """Columns that are read as numbers."""
        return (self.label, *self.dense) if self.label else self.dense

    @property
    def names(self) -> tuple[str, ...]:
        """All columns that are read."""
        return (*self.numbers, *self.texts)


@dataclass(frozen=True)
class Dialect:
    """Dialect of delimited text.

    Attributes:
        separator: one character.
        quoted: values may be in double quotes.
        header: names of the columns; empty where the first line of each file has them.
    """

    separator: str
    quoted: bool = False
    header: tuple[str, ...] = ()


class Join(Protocol):
    """Features joined from another file, by a key."""

    @property
    def key(self) -> str:
        """The text column whose hash is looked up."""

    @property
    def features(self) -> tuple[Categorical, ...]:
        """The features, in order."""

    def find(self, keys: NDArray[np.uint64]) -> NDArray[np.int32]:
        """Ids of keys `(N,)`, as `(columns of ids, N)`."""


@dataclass(frozen=True)
class Layout:
    """Columns of a format, and their features.

    Attributes:
        source: the format, ``criteo`` for example.
        columns: read from each row.
        categorical: features of `columns.texts`, in the same order and of the same names.
        dialect: of text; None is Parquet.
        joins: features from other files.
    """

    source: str
    columns: Columns
    categorical: tuple[Categorical, ...]
    dialect: Dialect | None
    joins: tuple[Join, ...] = ()

    @property
    def features(self) -> Features:
        """All features, in order."""
        joined = (feature for join in self.joins for feature in join.features)
        return Features(self.columns.dense, (*self.categorical, *joined))


def tables(sizes: Mapping[str, int], limit: int | None) -> tuple[Categorical, ...]:
    """Single-valued features of these table sizes, none larger than `limit`."""
    return capped((Categorical(name, rows) for name, rows in sizes.items()), limit)


def capped(features: Iterable[Categorical], limit: int | None) -> tuple[Categorical, ...]:
    """The features with no table larger than `limit` rows.

    Raises:
        DataError: if the limit leaves no room for a value beside the missing one.
    """
    if limit is not None and limit < 2:
        raise DataError(f"table_rows must be at least 2 (row 0 is what is missing), but got {limit}")
    return tuple(replace(f, rows=min(f.rows, limit or f.rows)) for f in features)
