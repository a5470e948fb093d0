"""Files of a study, on a local disk or any filesystem that pyarrow opens.

An address is a local path or a URI such as ``s3://bucket/folder?endpoint_override=host:9000&scheme=http``.
"""

from __future__ import annotations

import errno
import json
import re
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote, unquote

import pyarrow as pa
import pyarrow.fs

from manynet.errors import OutOfService

# Uploads are atomic there, and folders need not be created.
_OBJECT_STORES = ("s3", "gcs", "abfs")
# One request for a small file, rather than the three of an upload in parts.
_AT_ONCE = "allow_delayed_open"
_KEY = re.compile(r"\w+://[^?]*:[^?]*@")
_FULL = (errno.ENOSPC, errno.EDQUOT)


class StorageError(OutOfService):
    """An address names no filesystem, or a file cannot be read or written; other files there would fail too."""


def locate(address: str | Path) -> tuple[pyarrow.fs.FileSystem, str]:
    """The filesystem behind a local path or a pyarrow address (``s3://...``), and the path on it.

    Raises:
        StorageError: the address names no filesystem pyarrow knows, or holds a key, which a study's files would repeat.
    """
    if _KEY.match(str(address)):
        raise StorageError(
            f"an address must hold no key, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY have in the "
            f"environment, but got one before the '@' of an address on {str(address).partition(':')[0]}"
        )
    text = str(address) if is_uri(address) else Path(address).absolute().as_uri()
    if text.startswith("s3://") and _AT_ONCE not in text:
        text += f"{'&' if '?' in text else '?'}{_AT_ONCE}=true"
    try:
        filesystem, path = pyarrow.fs.FileSystem.from_uri(text)
    except (pa.ArrowException, ValueError, OSError) as error:
        raise StorageError(
            f"an address must be a path or a URI pyarrow can open, but got {text!r}: {error}"
        ) from None
    return filesystem, path.rstrip("/")


def is_uri(address: str | Path) -> bool:
    """Whether an address is a URI, not a path."""
    return "://" in str(address)


def is_local(address: str | Path) -> bool:
    """Whether an address is in this machine's file tree, where files can be appended to."""
    return bool(locate(address)[0].type_name == "local")


def absolute(address: str | Path) -> str:
    """An address that does not depend on the working directory, without a trailing slash."""
    return join(address) if is_uri(address) else str(Path(address).absolute())


def join(address: str | Path, *names: str) -> str:
    """Join names to a folder's address; options of a URI (``?region=...``) stay at the end."""
    folder, mark, options = _parts(address)
    inside = [quote(name, safe="/=,+") for name in names] if is_uri(address) else names
    return "/".join([folder.rstrip("/"), *inside]) + mark + options


def basename(address: str | Path) -> str:
    """The last name in an address."""
    folder = _parts(address)[0].rstrip("/").rpartition("/")[2]
    return unquote(folder) if is_uri(address) else folder


def exists(address: str | Path) -> bool:
    """Whether a file or folder exists.

    Raises:
        StorageError: the filesystem does not answer.
    """
    filesystem, path = locate(address)
    with _reading(address):
        return bool(filesystem.get_file_info(path).type != pyarrow.fs.FileType.NotFound)


def read_bytes(address: str | Path) -> bytes:
    """All of a file.

    Raises:
        StorageError: it cannot be read.
    """
    filesystem, path = locate(address)
    with _reading(address), filesystem.open_input_file(path) as stream:
        content: bytes = stream.read()
    return content


def read_json(address: str | Path) -> Any:
    """The content of a JSON file; None if it is missing or truncated.

    Raises:
        StorageError: it exists, but cannot be read.
    """
    filesystem, path = locate(address)
    try:
        with _reading(address), suppress(FileNotFoundError), filesystem.open_input_file(path) as stream:
            return json.loads(stream.read())
    except ValueError:
        pass
    return None


@contextmanager
def local_copy(address: str | Path) -> Iterator[Path]:
    """Local path of a file: its own, or that of a temporary copy, deleted at the end of the block.

    Raises:
        StorageError: it cannot be read.
    """
    if is_local(address):
        yield Path(locate(address)[1])
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / basename(address)
        path.write_bytes(read_bytes(address))
        yield path


def write_bytes(address: str | Path, content: bytes) -> None:
    """Write a file atomically: readers find the old content or the new, even after a crash.

    Raises:
        StorageError: it cannot be written.
    """
    filesystem, path = locate(address)
    with writing(address):
        put(filesystem, path, content)


def remove(address: str | Path) -> None:
    """Delete a file, if it is there.

    Raises:
        StorageError: it cannot be deleted.
    """
    filesystem, path = locate(address)
    with writing(address), suppress(FileNotFoundError):
        filesystem.delete_file(path)


def put(filesystem: pyarrow.fs.FileSystem, path: str, content: bytes | pa.Buffer) -> None:
    """:func:`write_bytes` on an open filesystem, whose connections are reused.

    Raises:
        OSError: it cannot be written.
    """
    if filesystem.type_name in _OBJECT_STORES:
        _put_at_once(filesystem, path, content)
        return
    _make_folder(filesystem, path)
    temporary = f"{path}.{uuid.uuid4().hex}.tmp"
    try:
        _put_at_once(filesystem, temporary, content)
        filesystem.move(temporary, path)
    except OSError:
        # A partial file must not take up space, least of all on a full disk.
        with suppress(OSError):
            filesystem.delete_file(temporary)
        raise


@contextmanager
def open_output(address: str | Path) -> Iterator[pa.NativeFile]:
    """Open a new file for streaming. Not atomic: something else must mark the file as complete.

    Raises:
        StorageError: it cannot be written.
    """
    filesystem, path = locate(address)
    with writing(address):
        _make_folder(filesystem, path)
        with filesystem.open_output_stream(path) as stream:
            yield stream


def copy_folder(source: Path, address: str | Path) -> None:
    """Copy a local folder's files to ``address``, each atomically.

    Raises:
        StorageError: they cannot be written.
    """
    for file in sorted(path for path in source.rglob("*") if path.is_file()):
        write_bytes(join(address, *file.relative_to(source).parts), file.read_bytes())


def check_writable(folder: str | Path) -> None:
    """Check that a folder is writable by writing and deleting a small file: permissions do not tell for sure.

    Raises:
        StorageError: it cannot.
    """
    filesystem, path = locate(join(folder, f".{uuid.uuid4().hex}.tmp"))
    with writing(folder, "folder"):
        put(filesystem, path, b"manynet writes here")
        filesystem.delete_file(path)


@contextmanager
def writing(address: str | Path, what: str = "file") -> Iterator[None]:
    """Convert errors of a block that writes ``what`` at ``address`` into one line.

    Raises:
        StorageError: for any ``OSError``.
    """
    try:
        yield
    except OSError as error:
        raise unwritable(address, error, what) from None


def unwritable(address: str | Path, error: OSError, what: str = "folder") -> StorageError:
    """One-line error for a failed write to ``address``."""
    if is_full(error):
        return StorageError(f"{address} must have room, but its disk is full: {_line(error)}")
    return StorageError(f"{address} must be a {what} that can be written: {_line(error)}")


def is_full(error: OSError) -> bool:
    """Whether the disk or quota is full."""
    return error.errno in _FULL


@contextmanager
def _reading(address: str | Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"{address} must be a file that can be read: {_line(error)}") from None


def _put_at_once(filesystem: pyarrow.fs.FileSystem, path: str, content: bytes | pa.Buffer) -> None:
    with filesystem.open_output_stream(path) as stream:
        stream.write(content)


def _make_folder(filesystem: pyarrow.fs.FileSystem, path: str) -> None:
    """Create a file's folder; object stores have none, and take several requests to emulate one."""
    if filesystem.type_name not in _OBJECT_STORES:
        filesystem.create_dir(str(PurePosixPath(path).parent), recursive=True)


def _parts(address: str | Path) -> tuple[str, str, str]:
    """An address without its options, the ``?`` and the options; both empty for a local path, whatever its name."""
    return str(address).partition("?") if is_uri(address) else (str(address), "", "")


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
