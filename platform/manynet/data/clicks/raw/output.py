"""The Parquet files of a converted data set."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq
from numpy.typing import NDArray

from manynet.data.base import DataError
from manynet.data.clicks.raw.stratify import SPLITS
from manynet.data.clicks.raw.transform import Examples
from manynet.data.clicks.schema import FILE, LABEL, is_finished
from manynet.data.features import Features
from manynet.data.hashing import Ids
from manynet.storage import StorageError, locate

GROUP_ROWS = 2**14
# Readers open every file of a split; writers keep the footer of one in memory.
FILE_GROUPS = 256
# Ids of larger tables hardly repeat within a row group, so a dictionary would only cost time.
_DICTIONARY_ROWS = 5000
_OURS = re.compile(rf"({'|'.join(SPLITS)})(/part-\d{{5}}\.parquet)?|{re.escape(FILE)}\.[0-9a-f]+\.tmp")


def check_folder(folder: str) -> None:
    """Check that a folder is new, or left by an interrupted conversion.

    Raises:
        DataError: if it holds a finished data set, or other files than a conversion's.
    """
    with writing(folder):
        if is_finished(folder):
            raise DataError(f"the output must be a new folder, but {folder} holds a converted data set")
        _, root, entries = _entries(folder)
        for entry in entries:
            if not _OURS.fullmatch(entry.path.removeprefix(root).lstrip("/")):
                raise DataError(f"the output must be a new folder, but {folder} holds {entry.path}")


def clear_folder(folder: str) -> None:
    """Create a folder, and delete all files in it; call :func:`check_folder` first.

    Raises:
        DataError: if it cannot be written.
    """
    with writing(folder):
        system, root, entries = _entries(folder)
        system.create_dir(root, recursive=True)
        for entry in entries:
            if entry.is_file:
                system.delete_file(entry.path)


def _entries(folder: str) -> tuple[pa.fs.FileSystem, str, list[pa.fs.FileInfo]]:
    system, root = locate(folder)
    if system.get_file_info(root).is_file:
        raise DataError(f"the output must be a folder, but {folder} is a file")
    return system, root, system.get_file_info(pa.fs.FileSelector(root, allow_not_found=True, recursive=True))


@contextmanager
def writing(folder: str) -> Iterator[None]:
    """Convert write errors of the block into one line that names the folder.

    Raises:
        DataError: for such an error.
    """
    try:
        yield
    except (OSError, pa.ArrowException, StorageError) as error:
        raise DataError(
            f"the output must be a folder that can be written, but {folder} is not: {error}"
        ) from None


class SplitWriter:
    """Writes the rows of one split: files of :data:`FILE_GROUPS` row groups, each of :data:`GROUP_ROWS` rows.

    Attributes:
        rows: added so far, including buffered ones.
        positives: rows with label 1 in the row groups written so far.
        digest: hash object over the row groups written so far; over all rows once closed.
    """

    def __init__(self, folder: str, features: Features) -> None:
        """Start.

        Args:
            folder: of the split; its local path or pyarrow address.
            features: the columns beside the label.
        """
        self.rows = 0
        self.positives = 0
        self.digest = hashlib.sha256()
        self._folder = folder
        self._system, self._root = locate(folder)
        self._features = features
        self._schema = pa.schema(list(_fields(features)))
        # Arrow writes whole row groups: rows are buffered until there are enough for one.
        self._buffer = Examples(
            np.empty(GROUP_ROWS, np.uint8),
            np.empty((len(features.dense), GROUP_ROWS), np.float32),
            np.empty((features.ids_width, GROUP_ROWS), np.int32),
        )
        self._buffered = 0
        self._groups = 0
        self._stream: Any = None
        self._writer: Any = None

    def add(self, examples: Examples, rows: NDArray[np.intp]) -> None:
        """Append `rows` of converted examples.

        Raises:
            DataError: if they cannot be written.
        """
        self.rows += len(rows)
        while len(rows):
            some, rows = np.split(rows, [GROUP_ROWS - self._buffered])
            end = self._buffered + len(some)
            for source, target in zip(_columns(examples), _columns(self._buffer), strict=True):
                # The rows are valid; with mode "clip" NumPy skips the check, which needs a copy.
                np.take(source, some, out=target[self._buffered : end], mode="clip")
            self._buffered = end
            if end == GROUP_ROWS:
                self._write()

    def close(self) -> None:
        """Write the buffered rows, and close the last file.

        Raises:
            DataError: if they cannot be written.
        """
        if self._buffered:
            self._write()
        with writing(self._folder):
            self._end_file()

    def _write(self) -> None:
        columns = [column[: self._buffered] for column in _columns(self._buffer)]
        for column in columns:
            self.digest.update(column.data)
        self.positives += int(columns[0].sum())
        with writing(self._folder):
            if self._writer is None:
                self._begin_file()
            self._writer.write_table(pa.table(list(self._arrays(columns)), schema=self._schema))
            self._buffered = 0
            self._groups += 1
            if self._groups % FILE_GROUPS == 0:
                self._end_file()

    def _arrays(self, columns: list[NDArray[Any]]) -> Iterator[pa.Array]:
        at = 1 + len(self._features.dense)
        yield from map(pa.array, columns[:at])
        for feature in self._features.categorical:
            values = columns[at : at + feature.values]
            yield pa.array(values[0]) if feature.values == 1 else _lists(np.stack(values, axis=1))
            at += feature.values

    def _begin_file(self) -> None:
        self._system.create_dir(self._root, recursive=True)
        path = f"{self._root}/part-{self._groups // FILE_GROUPS:05d}.parquet"
        self._stream = self._system.open_output_stream(path)
        # Uncompressed: files are read often, and dictionaries already halve the size.
        self._writer = pq.ParquetWriter(
            self._stream,
            self._schema,
            compression="none",
            use_dictionary=list(_repetitive(self._features)),
            write_statistics=False,
        )

    def _end_file(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._stream.close()
            self._writer = None


def _columns(examples: Examples) -> list[NDArray[Any]]:
    return [examples.labels, *examples.dense, *examples.ids]


def _lists(values: Ids) -> pa.ListArray:
    """Lists of each row's values other than -1."""
    kept = values >= 0
    offsets = np.concatenate([[0], np.cumsum(kept.sum(axis=1))])
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(values[kept]))


def _fields(features: Features) -> Iterator[pa.Field]:
    yield pa.field(LABEL, pa.uint8(), nullable=False)
    for name in features.dense:
        yield pa.field(name, pa.float32(), nullable=False)
    for feature in features.categorical:
        kind = pa.int32() if feature.values == 1 else pa.list_(pa.int32())
        yield pa.field(feature.name, kind, nullable=False)


def _repetitive(features: Features) -> Iterator[str]:
    """Columns with dictionary encoding: counts, and ids of small tables."""
    yield LABEL
    yield from features.dense
    yield from (f.name for f in features.categorical if f.values == 1 and f.rows <= _DICTIONARY_ROWS)
