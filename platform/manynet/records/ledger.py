"""Ledger: all evaluations and measurements, each once, as one small Parquet file a record."""

from __future__ import annotations

import hashlib
import json
import uuid
import warnings
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

from manynet.errors import ManynetError, first_line
from manynet.storage import absolute, locate, put, writing

Kind: TypeAlias = Literal["evaluation", "anchor", "finalist", "measurement"]

_JSON = ("architecture", "metrics", "measurements", "details")
_ATTEMPTS = 5
_READERS = 8


class LedgerError(ManynetError):
    """The ledger's folder, or a file in it, cannot be used."""


class TornFileWarning(UserWarning):
    """A ledger file could not be read, and was set aside."""


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")


@dataclass(frozen=True)
class Record:
    """One row of the ledger.

    Attributes:
        key: digest of the evaluation's inputs: see ``record_key``.
        kind: ``evaluation`` (with shared weights), ``anchor`` (trained alone), ``finalist``, or ``measurement``
            (a latency alone, of an architecture that was evaluated before).
        space, weights, data: digests of the search space, the supernet's weights and the data set.
        architecture: the canonical architecture, without keys that its network does not read.
        protocol: other settings that determine the score: split, limits, calibration.
        metrics: ``accuracy``, ``loss``, ``macs``, ``parameters``, ``latency@<device>`` (ms), ...
        measurements: the latency measurements.
        created: ISO time, UTC.
        details: other JSON values.
    """

    key: str
    kind: Kind
    space: str
    weights: str
    architecture: Mapping[str, Any]
    data: str
    protocol: str
    metrics: Mapping[str, float]
    measurements: Sequence[Mapping[str, Any]] = ()
    created: str = field(default_factory=_now)
    details: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise LedgerError(
                f"a record's kind must be one of {', '.join(get_args(Kind))}, but got {self.kind!r}"
            )


def record_key(
    kind: Kind, space: str, weights: str, architecture: Mapping[str, Any], data: str, protocol: str
) -> str:
    """Digest of 16 hex digits; equal exactly when a second evaluation would repeat the first."""
    text = json.dumps([kind, space, weights, architecture, data, protocol], sort_keys=True, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


SCHEMA = pa.schema([pa.field(column.name, pa.string(), nullable=False) for column in fields(Record)])


class Ledger:
    """A folder of records that many processes write and read.

    Writes are atomic. Pickles as its address: evaluators write their own records.

    Args:
        address: a local folder, or any pyarrow filesystem address; created when first written to.
    """

    def __init__(self, address: str | Path) -> None:
        # Absolute, because workers have another working directory than the driver.
        self.address = absolute(address)

    def __reduce__(self) -> tuple[type[Ledger], tuple[str]]:
        return Ledger, (self.address,)

    def __repr__(self) -> str:
        return f"Ledger({self.address!r})"

    def write(self, record: Record) -> None:
        """Write one record; a record with the same key is replaced.

        Raises:
            LedgerError: the record holds values that are not JSON.
            StorageError: the folder cannot be written to.
        """
        self._store(f"{record.key}.parquet", [record])

    def write_all(self, records: Sequence[Record]) -> None:
        """Write many records as one file: all of them or none; a record with the same key is replaced.

        Raises:
            LedgerError: a record holds values that are not JSON.
            StorageError: the folder cannot be written to.
        """
        if records:
            self._store(_merged_name(records), records)

    def read(self) -> list[Record]:
        """All records, oldest first, the newest of each key; empty for a new folder.

        An incomplete file is renamed to ``<name>.torn``, with a ``TornFileWarning``.

        Raises:
            LedgerError: a Parquet file in the folder is not a ledger's, or the folder cannot be read.
        """
        return self._read_all()[0]

    def keys(self) -> set[str]:
        """Keys of all records that can be read."""
        return {record.key for record in self.read()}

    def compact(self) -> int:
        """Merge all files into one, and return their former number.

        The merged file is complete before any other is deleted: a kill in between leaves duplicates, which
        readers drop. Concurrent writes are allowed, but must not replace a record that is being merged.
        """
        records, names = self._read_all()
        if len(names) < 2:
            return len(names)
        merged = _merged_name(records)
        self._store(merged, records)
        with ThreadPoolExecutor(_READERS) as deleters:
            list(deleters.map(self._delete, [name for name in names if name != merged]))
        return len(names)

    @cached_property
    def _place(self) -> tuple[pyarrow.fs.FileSystem, str]:
        return locate(self.address)

    def _store(self, name: str, records: Sequence[Record]) -> None:
        content = _encode(records)
        filesystem, folder = self._place
        with writing(self.address, "folder"):
            put(filesystem, f"{folder}/{name}", content)

    def _read_all(self) -> tuple[list[Record], list[str]]:
        for _ in range(_ATTEMPTS):
            try:
                return self._read_once()
            except FileNotFoundError:
                # Another process compacted after the listing: list again.
                continue
            except OSError as error:
                raise LedgerError(f"a ledger must be a folder that can be read, but got: {error}") from None
        raise LedgerError(f"files kept disappearing from {self.address!r} while it was read")

    def _read_once(self) -> tuple[list[Record], list[str]]:
        filesystem, folder = self._place
        listed = filesystem.get_file_info(pyarrow.fs.FileSelector(folder, allow_not_found=True))
        files = [info for info in listed if info.is_file and info.base_name.endswith(".parquet")]
        names, records = [], []
        # Object stores answer slowly, but many requests at once.
        with ThreadPoolExecutor(_READERS) as readers:
            for info, content in zip(files, readers.map(self._content, files), strict=True):
                table = self._table(info, content)
                if table is not None:
                    names.append(info.base_name)
                    records += _records(table, info.path)
        return _distinct(records), names

    def _table(self, info: pyarrow.fs.FileInfo, content: pa.Buffer) -> pa.Table | None:
        """The table of a file; None for a torn one, which is set aside."""
        try:
            return _decode(content)
        except (pa.ArrowException, OSError):
            # Not every store that speaks S3 shows a file only once it is whole.
            again = self._content(info)
        try:
            return _decode(again)
        except (pa.ArrowException, OSError) as error:
            self._set_aside(info.base_name, error)
            return None

    def _content(self, info: pyarrow.fs.FileInfo) -> pa.Buffer:
        """Read a whole file. Storage errors are raised: only a file's content may count as torn."""
        filesystem, _ = self._place
        try:
            with filesystem.open_input_file(info.path) as stream:
                return stream.read_buffer()
        except OSError:
            # Object stores have no specific error for a file that is deleted during the read.
            if filesystem.get_file_info(info.path).type == pyarrow.fs.FileType.NotFound:
                raise FileNotFoundError(info.path) from None
            raise

    def _set_aside(self, name: str, error: Exception) -> None:
        filesystem, folder = self._place
        torn = f"{folder}/{name}.torn"
        if filesystem.get_file_info(torn).type != pyarrow.fs.FileType.NotFound:
            torn = f"{folder}/{name}.{uuid.uuid4().hex}.torn"
        filesystem.move(f"{folder}/{name}", torn)
        warnings.warn(
            f"ledger file {name} is torn ({first_line(error)}); set aside as {torn}",
            TornFileWarning,
            stacklevel=6,
        )

    def _delete(self, name: str) -> None:
        filesystem, folder = self._place
        with suppress(FileNotFoundError):  # another process compacted too
            filesystem.delete_file(f"{folder}/{name}")


def _plain(value: object) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} is not JSON")


def _merged_name(records: Sequence[Record]) -> str:
    digest = hashlib.sha256("".join(sorted(record.key for record in records)).encode()).hexdigest()[:16]
    return f"compacted-{digest}.parquet"


def _text(record: Record, column: str) -> str:
    value = getattr(record, column)
    if column not in _JSON:
        return str(value)
    try:
        return json.dumps(list(value) if column == "measurements" else dict(value), default=_plain)
    except (TypeError, ValueError) as error:
        raise LedgerError(f"a record's {column} must be JSON, but got {value!r}: {error}") from None


def _encode(records: Sequence[Record]) -> pa.Buffer:
    table = pa.table(
        {column: [_text(record, column) for record in records] for column in SCHEMA.names}, schema=SCHEMA
    )
    sink = pa.BufferOutputStream()
    # Checksums detect damaged pages, which could decode to wrong values. Dictionaries and statistics serve queries
    # over large columns; they would be most of a one-record file.
    pq.write_table(
        table,
        sink,
        compression="zstd",
        write_page_checksum=True,
        use_dictionary=False,
        write_statistics=False,
        store_schema=False,
    )
    return sink.getvalue()


def _decode(content: pa.Buffer) -> pa.Table:
    return pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True).read(use_threads=False)


def _records(table: pa.Table, path: str) -> list[Record]:
    if not table.schema.equals(SCHEMA):
        raise LedgerError(
            f"Parquet files in a ledger must have the columns {', '.join(SCHEMA.names)}, "
            f"but {path!r} has {', '.join(table.schema.names)}"
        )
    columns = table.to_pydict()
    for column in _JSON:
        columns[column] = [json.loads(text) for text in columns[column]]
    return [Record(*row) for row in zip(*columns.values(), strict=True)]


def _distinct(records: Iterable[Record]) -> list[Record]:
    by_age = sorted(records, key=lambda record: (record.created, record.key))
    newest = {record.key: record for record in by_age}
    return sorted(newest.values(), key=lambda record: (record.created, record.key))
