"""Click-through data streamed from row groups of Parquet files.

Arrow reads them in a thread. Images use tasks of Ray Data instead, because decoding is worth distributing. Here
nothing is decoded, and moving blocks between processes would cost more than reading them:
`benchmarks/click_streaming.py` measures 1.4 million rows a CPU-second for Arrow against 0.2 million for Ray Data, of
Criteo's 13 + 26 features in mixed batches of 512.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from manynet.data.base import Batch, DataError, Split, generator
from manynet.data.clicks.in_memory import Clicks
from manynet.data.clicks.schema import LABEL
from manynet.data.features import Categorical, Features
from manynet.data.held_out import Part, parts
from manynet.data.order import Rows, check_batches, check_share, first, regroup, share
from manynet.data.parquet_files import RowGroups, group_rows, list_parquet, open_parquet, read_parquet
from manynet.data.prefetch import prefetched

# Size of the shuffle buffer in rows. It holds whole row groups, so that each is read once an epoch.
WINDOW = 2**17
# Windows to prefetch: with the one in use and the one being cut, four are in memory.
PREFETCHED_WINDOWS = 2


@dataclass(frozen=True, eq=False)
class ClickFiles(RowGroups):
    """The Parquet files of one split: columns `label`, and one of each feature's name."""

    features: Features

    def __len__(self) -> int:
        return int(self.starts[-1])

    def order(self, random: np.random.Generator, window: int) -> Iterator[Rows]:
        """All rows: row groups in random order, rows shuffled among the groups of a window."""
        window_rows: list[Rows] = []
        for group in random.permutation(len(self.starts) - 1):
            window_rows.append(np.arange(self.starts[group], self.starts[group + 1]))
            if sum(map(len, window_rows)) >= window:
                yield random.permutation(np.concatenate(window_rows))
                window_rows = []
        if window_rows:
            yield random.permutation(np.concatenate(window_rows))

    def fixed_order(self) -> Iterator[Rows]:
        """All rows in a fixed shuffled order, whose first rows are in few row groups."""
        return self.order(generator("fixed order"), 1)

    def read(self, order: Iterator[Rows]) -> Iterator[Clicks]:
        """The examples of each piece of an order.

        Raises:
            DataError: if a file cannot be read, or does not match the features.
        """
        footers: dict[str, pq.FileMetaData] = {}
        for rows in order:
            groups = self.group_of(rows)
            needed = np.unique(groups)
            sizes = np.diff(self.starts)[needed]
            read = self._read(needed.tolist(), int(sizes.sum()), footers)
            places = np.cumsum(sizes) - sizes
            yield read.take(rows - self.starts[groups] + places[np.searchsorted(needed, groups)])

    def _read(self, groups: list[int], count: int, footers: dict[str, pq.FileMetaData]) -> Clicks:
        """Read and concatenate whole row groups."""
        dense = np.empty((count, len(self.features.dense)), np.float32)
        ids = np.empty((count, self.features.ids_width), np.int32)
        labels = np.empty(count, np.uint8)
        at = 0
        for group in groups:
            file, inside = self.file_of(group)
            path = self.paths[file]
            with open_parquet(self.system, path, footers.get(path)) as opened:
                footers[path] = opened.metadata
                table = self._table(opened, inside, path)
            end = at + len(table)
            _fill(Clicks(dense[at:end], ids[at:end], labels[at:end]), table, self.features, path)
            at = end
        return Clicks(dense, ids, labels)

    def _table(self, opened: pq.ParquetFile, group: int, path: str) -> pa.Table:
        names = [LABEL, *self.features.dense, *(feature.name for feature in self.features.categorical)]
        # Single-threaded: the other threads train.
        return read_parquet(path, lambda: opened.read_row_group(group, columns=names, use_threads=False))


def find_clicks(address: str, features: Features) -> ClickFiles:
    """The files of one split.

    Raises:
        DataError: if there are none, or one cannot be read.
    """
    system, root, paths = list_parquet(address)
    groups = []
    for path in paths:
        with open_parquet(system, path) as file:
            groups.append(group_rows(file.metadata))
    return ClickFiles(system, root, paths, groups, features)


def _fill(into: Clicks, table: pa.Table, features: Features, path: str) -> None:
    """Copy a row group's columns into arrays.

    Raises:
        DataError: naming the invalid column.
    """
    into.labels[:] = _numbers(table, LABEL, path)
    for at, name in enumerate(features.dense):
        into.dense[:, at] = _numbers(table, name, path)
    at = 0
    for feature in features.categorical:
        if feature.values == 1:
            into.ids[:, at] = _checked(_numbers(table, feature.name, path), feature, path)
        else:
            _fill_lists(into.ids[:, at : at + feature.values], table, feature, path)
        at += feature.values


def _numbers(table: pa.Table, name: str, path: str) -> NDArray[Any]:
    column = _column(table, name, path)
    if pa.types.is_nested(column.type):
        raise DataError(f"column {name!r} must hold one number a row, but {path} has {column.type}")
    values: NDArray[Any] = column.to_numpy()
    return values


def _fill_lists(ids: NDArray[np.int32], table: pa.Table, feature: Categorical, path: str) -> None:
    column = _column(table, feature.name, path)
    if not pa.types.is_list(column.type):
        raise DataError(f"column {feature.name!r} must hold lists of ids, but {path} has {column.type}")
    lists = column.combine_chunks()
    lengths = lists.value_lengths().to_numpy()
    if len(lengths) and lengths.max() > feature.values:
        raise DataError(
            f"{feature.name} must have at most {feature.values} ids a row, but {path} has {lengths.max()}"
        )
    ids[:] = -1
    ids[np.arange(feature.values) < lengths[:, None]] = _checked(lists.flatten().to_numpy(), feature, path)


def _checked(ids: NDArray[Any], feature: Categorical, path: str) -> NDArray[Any]:
    if len(ids) and not 0 <= ids.min() <= ids.max() < feature.rows:
        raise DataError(
            f"ids of {feature.name} must be in 0..{feature.rows - 1}, but {path} has {ids.min()}..{ids.max()}"
        )
    return ids


def _column(table: pa.Table, name: str, path: str) -> pa.ChunkedArray:
    at = table.schema.get_field_index(name)
    if at < 0:
        raise DataError(f"there must be a column {name!r}, but {path} has ({', '.join(table.column_names)})")
    column = table.column(at)
    if column.null_count:
        raise DataError(
            f"every row must have a value in column {name!r}, but {path} has {column.null_count} without"
        )
    return column


@dataclass(frozen=True, eq=False)
class StreamedClicks(Split):
    """Click-through examples that are read lazily.

    A window of row groups is read at once, by a thread, and kept in memory while its rows are used. Every worker reads
    every window and keeps its part: reading is cheap beside training, and the joint batches do not depend
    on the number of workers.
    """

    files: ClickFiles
    parts: tuple[Part, ...] = ()

    def __len__(self) -> int:
        return self._length

    @cached_property
    def _length(self) -> int:
        return sum(map(len, self._kept(self.files.fixed_order()))) if self.parts else len(self.files)

    def batches(self, size: int, limit: int | None = None) -> Iterator[Batch]:
        check_batches(size, limit)
        return self._read(first(self._kept(self.files.fixed_order()), limit or len(self)), size)

    def stream(
        self, size: int, *, seed: int, start: int = 0, rank: int = 0, world: int = 1
    ) -> Iterator[Batch]:
        check_share(size, start, rank, world)

        def epoch(number: int) -> Iterator[Rows]:
            return self._kept(self.files.order(generator("epoch", seed, number), WINDOW))

        return self._read(
            share(epoch, len(self), size=size, start=start, rank=rank, world=world), size // world
        )

    def divided(self, share: float, *, seed: int) -> tuple[Split, Split]:
        # Nested divisions need draws of their own.
        drawn, rest = (
            replace(self, parts=(*self.parts, part)) for part in parts(share, seed + len(self.parts))
        )
        return drawn, rest

    def _kept(self, order: Iterator[Rows]) -> Iterator[Rows]:
        for rows in order:
            for part in self.parts:
                rows = part.of(rows)
            yield rows

    def _read(self, order: Iterator[Rows], size: int) -> Iterator[Batch]:
        pieces = prefetched(self.files.read(order), PREFETCHED_WINDOWS)
        return (Clicks(*arrays).batch() for arrays in regroup((piece.arrays for piece in pieces), size))
