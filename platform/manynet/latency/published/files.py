"""Finds, decompresses and reads the files of a published set."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Mapping
from os.path import expanduser
from pathlib import PurePosixPath

import pandas as pd
import pyarrow as pa
import pyarrow.fs

from manynet.data.raw_files import RawFile, open_raw
from manynet.errors import first_line
from manynet.latency.published.latencies import PublishedError
from manynet.storage import locate

_LICENCE = re.compile(r"(?i)(licen[cs]e|copying|notice).*")


def read_matching(folder: str, pattern: re.Pattern[str]) -> dict[str, bytes]:
    """Decompressed contents of a folder's files with matching names, by name without ``.gz``, sorted.

    Raises:
        PublishedError: if there is no such folder.
        manynet.data.base.DataError: for a file that cannot be read.
    """
    return {
        file.name.removesuffix(".gz"): _decompressed(file)
        for file in sorted(_files(folder), key=lambda file: file.name)
        if pattern.fullmatch(file.name.removesuffix(".gz"))
    }


def read_file(address: str) -> bytes:
    """Decompressed content of a file.

    Raises:
        manynet.data.base.DataError: if it cannot be read.
    """
    system, path = locate(expanduser(address))
    return _decompressed(RawFile(system, path, 0))


def licences_beside(address: str) -> dict[str, bytes]:
    """Contents of the licence files in a folder, or beside a file."""
    system, path = locate(expanduser(address))
    folder = str(PurePosixPath(path).parent) if system.get_file_info(path).is_file else path
    return {
        info.base_name: _decompressed(RawFile(system, info.path, info.size))
        for info in system.get_file_info(pa.fs.FileSelector(folder))
        if info.is_file and _LICENCE.fullmatch(info.base_name)
    }


def columns(content: bytes, name: str, texts: tuple[str, ...], numbers: tuple[str, ...]) -> pd.DataFrame:
    """Columns of delimited text; invalid and missing numbers are NaN.

    Raises:
        PublishedError: for other than delimited text, or a missing column.
    """
    try:
        table = pd.read_csv(io.BytesIO(content), dtype=str, keep_default_na=False)
    except ValueError as error:
        raise PublishedError(
            f"{name} must be delimited text with a header, but it is not: {first_line(error)}"
        ) from None
    for column in (*texts, *numbers):
        if column not in table:
            raise PublishedError(
                f"{name} must have the columns {', '.join((*texts, *numbers))}, but lacks {column!r}"
            )
    figures = {number: pd.to_numeric(table[number], errors="coerce") for number in numbers}
    return table[list(texts)].assign(**figures)


def described(what: str, contents: Mapping[str, bytes]) -> str:
    """Provenance of a set in one line, with a digest of its decompressed files."""
    digest = hashlib.sha256()
    for name, content in sorted(contents.items()):
        digest.update(f"{name} {len(content)}\n".encode() + content)
    files = next(iter(contents)) if len(contents) == 1 else f"{len(contents)} files"
    return f"{what}; {files}, sha256 {digest.hexdigest()[:16]}"


def _files(folder: str) -> list[RawFile]:
    try:
        system, path = locate(expanduser(folder))
        infos = system.get_file_info(pa.fs.FileSelector(path))
    except OSError as error:
        raise PublishedError(
            f"source must be a folder that can be read, but got {folder!r}: {error}"
        ) from None
    return [RawFile(system, info.path, info.size) for info in infos if info.is_file]


def _decompressed(file: RawFile) -> bytes:
    with open_raw(file) as (stream, _):
        content: bytes = stream.read()
    return content
