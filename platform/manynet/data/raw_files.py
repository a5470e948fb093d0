"""Lists raw files, and opens them whether gzipped or not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from os.path import expanduser
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.fs

from manynet.data.base import DataError
from manynet.storage import StorageError, locate

_WILDCARDS = set("*?[")
_GZIP = b"\x1f\x8b"


@dataclass(frozen=True)
class RawFile:
    """A file to read.

    Attributes:
        system: the filesystem it is on.
        path: on that filesystem.
        size: bytes, as stored.
    """

    system: pa.fs.FileSystem
    path: str
    size: int

    @property
    def name(self) -> str:
        """File name, without its folder."""
        return PurePosixPath(self.path).name

    @property
    def kind(self) -> str:
        """File extension, without `.gz`: ``.csv`` for example."""
        return PurePosixPath(self.name.removesuffix(".gz")).suffix.lower()


def find_files(address: str) -> list[RawFile]:
    """The files of an address, sorted by path.

    Args:
        address: a file, a folder (all files below it but hidden ones), or a path with `*`, `?` and `[...]`;
            local or any filesystem pyarrow opens.

    Raises:
        DataError: if there is no such file, or one is empty.
    """
    try:
        system, path = locate(expanduser(address))
        infos = sorted(_matches(system, path), key=lambda info: info.path)
    except (StorageError, pa.ArrowException, OSError) as error:
        raise DataError(f"input must be files that can be read, but got {address!r}: {error}") from None
    if not infos:
        raise DataError(f"input must be a file, a folder of files or a pattern, but nothing is at {address}")
    files = [RawFile(system, info.path, info.size) for info in infos]
    for file in files:
        if not file.size:
            raise DataError(f"files must hold at least one row, but {file.path} is empty")
    return files


def _matches(system: pa.fs.FileSystem, path: str) -> list[pa.fs.FileInfo]:
    info = system.get_file_info(path)
    if info.is_file:
        return [info]
    parts = PurePosixPath(path).parts
    wildcard = next((at for at, part in enumerate(parts) if _WILDCARDS & set(part)), None)
    if info.type == pa.fs.FileType.NotFound and wildcard is not None:
        root = str(PurePosixPath(*parts[:wildcard]))
        entries = system.get_file_info(pa.fs.FileSelector(root, allow_not_found=True, recursive=True))
        return [entry for entry in entries if entry.is_file and _matches_pattern(entry.path, parts)]
    entries = system.get_file_info(pa.fs.FileSelector(path, allow_not_found=True, recursive=True))
    return [entry for entry in entries if entry.is_file and not _is_hidden(entry.path, path)]


def _matches_pattern(path: str, pattern: tuple[str, ...]) -> bool:
    parts = PurePosixPath(path).parts
    return len(parts) == len(pattern) and all(map(fnmatchcase, parts, pattern))


def _is_hidden(path: str, root: str) -> bool:
    return any(part[0] in "._" for part in PurePosixPath(path).relative_to(root).parts)


@contextmanager
def open_raw(file: RawFile) -> Iterator[tuple[Any, Any]]:
    """A file's decompressed stream, and the stream below, whose `tell` gives the bytes read so far.

    Raises:
        DataError: if it cannot be read, or its compression is damaged.
    """
    try:
        with file.system.open_input_file(file.path) as stored:
            is_gzip = stored.read(len(_GZIP)) == _GZIP
            stored.seek(0)
            yield (pa.CompressedInputStream(stored, "gzip") if is_gzip else stored), stored
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"files must be readable, but {file.path} is not: {error}") from None
