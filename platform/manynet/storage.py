"""Files of a study, on a local disk or any filesystem that pyarrow opens."""

from __future__ import annotations

import json
import uuid
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.fs

from manynet.errors import ManynetError


class StorageError(ManynetError):
    """An address leads to no filesystem, or a file cannot be read or written."""


def locate(address: str | Path) -> tuple[pyarrow.fs.FileSystem, str]:
    """The filesystem behind a local path or a pyarrow address (``s3://...``), and the path on it.

    Raises:
        StorageError: the address names no filesystem pyarrow knows.
    """
    text = str(address) if "://" in str(address) else Path(address).absolute().as_uri()
    try:
        filesystem, path = pyarrow.fs.FileSystem.from_uri(text)
    except (pa.ArrowException, ValueError, OSError) as error:
        raise StorageError(
            f"an address must be a path or a URI pyarrow can open, but got {text!r}: {error}"
        ) from None
    return filesystem, path.rstrip("/")


def absolute(address: str | Path) -> str:
    """An address that means the same in processes with other working directories; no slash ends it."""
    return join(address) if "://" in str(address) else str(Path(address).absolute())


def join(address: str | Path, *names: str) -> str:
    """The address of something inside a folder: options of an address (``?region=...``) stay at its end."""
    folder, mark, options = _parts(address)
    return "/".join([folder.rstrip("/"), *names]) + mark + options


def name(address: str | Path) -> str:
    """The last part of an address, without its options."""
    return _parts(address)[0].rstrip("/").rpartition("/")[2]


def is_local(address: str | Path) -> bool:
    """Whether an address is on a file system of this machine, as network mounts are: files can be appended to."""
    return bool(locate(address)[0].type_name == "local")


def exists(address: str | Path) -> bool:
    """Whether a file or folder is there."""
    filesystem, path = locate(address)
    return bool(filesystem.get_file_info(path).type != pyarrow.fs.FileType.NotFound)


def read_bytes(address: str | Path) -> bytes:
    """All of a file.

    Raises:
        StorageError: it cannot be read.
    """
    filesystem, path = locate(address)
    try:
        with filesystem.open_input_file(path) as stream:
            content: bytes = stream.read()
    except OSError as error:
        raise StorageError(f"{address} must be a file that can be read: {error}") from None
    return content


def read_json(address: str | Path) -> Any:
    """The content of a JSON file; None when there is none, or it is not whole.

    Raises:
        StorageError: it is there, but cannot be read: that is not the same as having none.
    """
    if not exists(address):
        return None
    try:
        return json.loads(read_bytes(address))
    except ValueError:
        return None


def write_bytes(address: str | Path, content: bytes) -> None:
    """Write a file whole, or not at all: a reader, or a kill in the middle, finds what was there before.

    Raises:
        StorageError: it cannot be written.
    """
    filesystem, path = locate(address)
    temporary = f"{path}.{uuid.uuid4().hex}.tmp"
    try:
        filesystem.create_dir(str(PurePosixPath(path).parent), recursive=True)
        with filesystem.open_output_stream(temporary) as stream:
            stream.write(content)
        filesystem.move(temporary, path)
    except OSError as error:
        raise StorageError(f"{address} must be a file that can be written: {error}") from None


def copy_folder(source: Path, address: str | Path) -> None:
    """Copy a local folder's files to ``address``.

    Raises:
        StorageError: they cannot be written.
    """
    filesystem, path = locate(address)
    try:
        filesystem.create_dir(path, recursive=True)
        local = pyarrow.fs.LocalFileSystem()
        pyarrow.fs.copy_files(str(source), path, source_filesystem=local, destination_filesystem=filesystem)
    except OSError as error:
        raise StorageError(f"{address} must be a folder that can be written: {error}") from None


def _parts(address: str | Path) -> tuple[str, str, str]:
    """An address without its options, their mark, and the options; a path has none, whatever it is named."""
    return str(address).partition("?") if "://" in str(address) else (str(address), "", "")
