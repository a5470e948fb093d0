"""Converts raw numbers to logarithms, and raw texts to ids."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from manynet.data.clicks.raw.layout import Layout
from manynet.data.features import Categorical
from manynet.data.hashing import Ids, hash_texts, text_ids


@dataclass(frozen=True)
class Examples:
    """Converted rows, column-major: each column is made, indexed and written separately.

    Attributes:
        labels: uint8 `(N,)`, 0 or 1.
        dense: float32 `(dense features, N)`.
        ids: int32 `(columns of ids, N)`; -1 where a multi-valued feature has no more values.
    """

    labels: NDArray[np.uint8]
    dense: NDArray[np.float32]
    ids: Ids


def transform(table: pa.Table, layout: Layout) -> Examples:
    """Convert good rows, as read from a piece of a file."""
    labels = (table.column(layout.columns.label).to_numpy() > 0).astype(np.uint8)
    dense = np.empty((len(layout.columns.dense), len(table)), np.float32)
    for at, name in enumerate(layout.columns.dense):
        dense[at] = logarithm(table.column(name))
    ids = np.empty((layout.features.ids_width, len(table)), np.int32)
    at = 0
    for feature in layout.categorical:
        values = joined(table.column(feature.name))
        if feature.values == 1:
            ids[at] = text_ids(values, feature.rows)
        else:
            ids[at : at + feature.values] = list_ids(values, feature, layout.columns.lists[feature.name])
        at += feature.values
    for join in layout.joins:
        joined_ids = join.find(hash_texts(joined(table.column(join.key))))
        ids[at : at + len(joined_ids)] = joined_ids
        at += len(joined_ids)
    return Examples(labels, dense, ids)


def logarithm(values: pa.ChunkedArray) -> NDArray[np.float64]:
    """log(max(x, 0) + 1); a missing value counts as 0."""
    filled = pc.fill_null(values, 0.0) if values.null_count else values
    numbers: NDArray[np.float64] = filled.to_numpy()
    return np.log(np.maximum(numbers, 0.0) + 1.0)


def list_ids(values: pa.Array, feature: Categorical, separator: str) -> Ids:
    """Ids of multi-valued texts, `(feature.values, N)`: the first values, padded with -1.

    Args:
        values: lists of texts, or texts with `separator` between the values. Empty values are left out.
        feature: gives the number of values to keep, and their table's size.
        separator: see `values`.
    """
    lists = values if pa.types.is_list(values.type) else pc.split_pattern(values, separator)
    ids = text_ids(lists.flatten(), feature.rows)
    row = np.repeat(np.arange(len(lists)), np.diff(lists.offsets.to_numpy()))
    row, ids = row[ids > 0], ids[ids > 0]
    rank = np.arange(len(row)) - np.searchsorted(row, row)
    kept = rank < feature.values
    result = np.full((feature.values, len(lists)), -1, np.int32)
    result[rank[kept], row[kept]] = ids[kept]
    return result


def joined(column: pa.ChunkedArray) -> pa.Array:
    """A column as one array; copied only if it has several chunks."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
