"""Features from a separate file, by a key: of users, by their id, for example."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from manynet.data.clicks.raw.transform import joined, list_ids
from manynet.data.features import Categorical
from manynet.data.hashing import Hashes, Ids, hash_texts, text_ids


@dataclass(frozen=True)
class Profile:
    """Single-valued features by key, in 8 bytes a key, whatever the key's length.

    Attributes:
        key: the text column of a log that holds the key.
        features: of a key.
        entries: sorted; upper bits of a key's hash, then its ids as one number in the lower bits. The upper
            bits are enough to distinguish keys: with two small tables, 59 of 64.
    """

    key: str
    features: tuple[Categorical, ...]
    entries: NDArray[np.uint64]

    def find(self, keys: Hashes) -> Ids:
        """Ids of keys `(N,)`, as `(features, N)`; 0 for an unknown key."""
        mask = _mask(self.features)
        prefixes = keys & ~mask
        places = np.minimum(np.searchsorted(self.entries, prefixes), len(self.entries) - 1)
        entries = self.entries[places]
        numbers = np.where(entries & ~mask == prefixes, entries & mask, 0).astype(np.intp)
        return np.stack(np.unravel_index(numbers, _shape(self.features))).astype(np.int32)


def read_profile(key: str, features: tuple[Categorical, ...], tables: Iterable[pa.Table]) -> Profile:
    """Read a profile.

    Args:
        key: column of the key. Of a repeated key, the entry that sorts first counts.
        features: of the other columns, with small tables.
        tables: pieces of the file, as texts.
    """
    # The empty key, whose hash is 0, has no features; so there is always an entry.
    packed = bytearray(8)
    for table in tables:
        ids = tuple(text_ids(joined(table.column(feature.name)), feature.rows) for feature in features)
        numbers = np.ravel_multi_index(ids, _shape(features)).astype(np.uint64)
        packed += ((hash_texts(joined(table.column(key))) & ~_mask(features)) | numbers).tobytes()
    # Sorted in place: there may be tens of millions.
    entries = np.frombuffer(packed, np.uint64)
    entries.sort()
    return Profile(key, features, entries)


def _shape(features: tuple[Categorical, ...]) -> tuple[int, ...]:
    return tuple(feature.rows for feature in features)


def _mask(features: tuple[Categorical, ...]) -> np.uint64:
    return np.uint64((1 << (prod(_shape(features)) - 1).bit_length()) - 1)


@dataclass(frozen=True)
class Lists:
    """A multi-valued feature by key, in about 13 bytes a key; the values stay in a temporary file.

    Attributes:
        key: the text column of a log that holds the key.
        feature: of a key.
        keys: their hashes, sorted.
        starts: of each key, index of its first value.
        counts: of each key, number of its values.
        values: ids of all keys, memory-mapped.
    """

    key: str
    feature: Categorical
    keys: Hashes
    starts: NDArray[np.unsignedinteger]
    counts: NDArray[np.unsignedinteger]
    values: Ids

    @property
    def features(self) -> tuple[Categorical, ...]:
        """The one feature."""
        return (self.feature,)

    def find(self, keys: Hashes) -> Ids:
        """Ids of keys `(N,)`, as `(feature.values, N)`; -1 where a key has fewer values."""
        places = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        starts, counts = self.starts[places], np.where(self.keys[places] == keys, self.counts[places], 0)
        result = np.full((self.feature.values, len(keys)), -1, np.int32)
        for number in range(self.feature.values):
            rows = np.flatnonzero(counts > number)
            result[number, rows] = self.values[starts[rows] + number]
        return result


def read_lists(key: str, feature: Categorical, separator: str, tables: Iterable[pa.Table]) -> Lists:
    """Read a multi-valued feature.

    Args:
        key: column of the key. Of a repeated key, the first row counts.
        feature: of the other column.
        separator: between values.
        tables: pieces of the file, as texts.
    """
    kind = np.min_scalar_type(feature.values)
    # The empty key, whose hash is 0, has no values; so there is always a key.
    key_bytes, count_bytes = bytearray(8), bytearray(kind.itemsize)
    with tempfile.TemporaryFile() as file:
        for table in tables:
            ids = list_ids(joined(table.column(feature.name)), feature, separator)
            key_bytes += hash_texts(joined(table.column(key))).tobytes()
            count_bytes += (ids >= 0).sum(axis=0).astype(kind).tobytes()
            ids.T[ids.T >= 0].tofile(file)
        # An empty file cannot be mapped.
        values: Ids = np.memmap(file, np.int32, "r") if file.tell() else np.zeros(1, np.int32)
    keys, counts = np.frombuffer(key_bytes, np.uint64), np.frombuffer(count_bytes, kind)
    order = np.argsort(keys, kind="stable")
    keys.sort()
    starts = np.cumsum(counts, dtype=np.min_scalar_type(len(values)))
    starts -= counts
    return Lists(key, feature, keys, starts[order], counts[order], values)
