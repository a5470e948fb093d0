"""Lists and reads Parquet files."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq
from numpy.typing import NDArray

from manynet.data.base import DataError
from manynet.data.images.parquet_columns import Columns, find_columns, images_of
from manynet.data.images.pixels import Pixels
from manynet.errors import first_line


@dataclass(frozen=True, eq=False)
class RowGroups:
    """Parquet files with consecutive row numbers across files. Picklable.

    Attributes:
        system: the filesystem they are on.
        root: address of the folder, in the filesystem's own spelling.
        paths: sorted, in the filesystem's own spelling.
        groups: rows of each row group of each file.
    """

    system: pa.fs.FileSystem
    root: str
    paths: list[str]
    groups: list[list[int]]

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """First row of each row group across files, and the number of rows at the end."""
        counts = [count for groups in self.groups for count in groups]
        return np.cumsum([0, *counts], dtype=np.int64)

    def group_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Row group of each row, both numbered across files."""
        return np.searchsorted(self.starts, rows, side="right") - 1

    def place(self, row: int) -> str:
        """Name of a row for error messages."""
        firsts = np.cumsum([0, *(sum(groups) for groups in self.groups)])
        file = int(np.searchsorted(firsts, row, side="right")) - 1
        return f"row {row - firsts[file]} of {self.paths[file]}"

    def columns_of(self, file: int, names: list[str]) -> pa.Table:
        """Read whole columns of one file."""
        with open_parquet(self.system, self.paths[file]) as opened:
            return read_parquet(self.paths[file], lambda: opened.read(columns=names))

    def file_of(self, group: int) -> tuple[int, int]:
        """File of a row group, numbered across files, and its number in that file."""
        file, inside = 0, group
        while inside >= len(self.groups[file]):
            inside -= len(self.groups[file])
            file += 1
        return file, inside


@dataclass(frozen=True, eq=False)
class Files(RowGroups):
    """Parquet files of images.

    Attributes:
        encoded: bytes of all images as stored, before Parquet's compression.
        columns: names of the image and label columns.
    """

    encoded: int
    columns: Columns

    def images(self, group: int) -> list[memoryview] | Pixels:
        """Encoded images, or pixels `(N, H, W, C)`, of a row group numbered across files."""
        file, inside = self.file_of(group)
        path = self.paths[file]
        with open_parquet(self.system, path) as opened:
            table = read_parquet(path, lambda: opened.read_row_group(inside, columns=[self.columns.image]))
        return images_of(table.column(self.columns.image), path)


def read_parquet(path: str, read: Callable[[], pa.Table]) -> pa.Table:
    """Call `read`, and name the file at `path` if it fails.

    Raises:
        DataError: if it cannot be read.
    """
    try:
        return read()
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"Parquet files must be readable, but {path} is not: {first_line(error)}") from None


def open_parquet(
    system: pa.fs.FileSystem, path: str, metadata: pq.FileMetaData | None = None
) -> pq.ParquetFile:
    """Open a file, and read its footer unless `metadata` is given.

    Raises:
        DataError: if it is not a Parquet file.
    """
    try:
        return pq.ParquetFile(system.open_input_file(path), metadata=metadata)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"Parquet files must be readable, but {path} is not: {first_line(error)}") from None


def list_parquet(address: str) -> tuple[pa.fs.FileSystem, str, list[str]]:
    """The filesystem of an address, its path there, and the sorted paths of its Parquet files.

    Raises:
        DataError: if there is none.
    """
    try:
        system, root = pa.fs.FileSystem.from_uri(address) if "://" in address else _local(address)
        info = system.get_file_info(root)
        entries = [info] if info.is_file else system.get_file_info(pa.fs.FileSelector(root, recursive=True))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(
            f"parquet:ADDRESS must be a file or folder, but got {address!r}: {first_line(error)}"
        ) from None
    paths = sorted(
        entry.path for entry in entries if entry.is_file and (info.is_file or _is_parquet(entry.path, root))
    )
    if not paths:
        raise DataError(f"parquet:ADDRESS must hold .parquet files, but {address!r} holds none")
    return system, root, paths


def find_files(address: str) -> Files:
    """List the files of an address, and read their footers.

    Raises:
        DataError: if there are no files, or the columns are not images and labels.
    """
    system, root, paths = list_parquet(address)
    columns = None
    groups, encoded = [], 0
    for path in paths:
        with open_parquet(system, path) as file:
            own_columns = find_columns(file.schema_arrow, path)
            if own_columns != (columns := columns or own_columns):
                raise DataError(
                    f"all files must have the columns of {paths[0]}, but {path} has {tuple(own_columns)}"
                )
            groups.append(group_rows(file.metadata))
            encoded += _image_bytes(file.metadata, columns.image)
    assert columns is not None
    return Files(system, root, paths, groups, encoded, columns)


def group_rows(metadata: pq.FileMetaData) -> list[int]:
    """Rows of each row group of a file."""
    return [metadata.row_group(at).num_rows for at in range(metadata.num_row_groups)]


def _local(address: str) -> tuple[pa.fs.FileSystem, str]:
    return pa.fs.LocalFileSystem(), os.path.abspath(os.path.expanduser(address))


def _is_parquet(path: str, root: str) -> bool:
    parts = PurePosixPath(path).relative_to(root).parts
    return path.endswith(".parquet") and not any(part[0] in "._" for part in parts)


def _image_bytes(metadata: Any, image: str) -> int:
    groups = (metadata.row_group(at) for at in range(metadata.num_row_groups))
    chunks = (group.column(at) for group in groups for at in range(group.num_columns))
    return sum(
        chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema.split(".")[0] == image
    )
