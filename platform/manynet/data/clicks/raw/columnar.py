"""Raw Parquet files, read batch by batch into the same columns as delimited text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import types

from manynet.data.base import DataError
from manynet.data.clicks.raw.bad_rows import Faults, drop_bad_values
from manynet.data.clicks.raw.layout import Columns
from manynet.data.raw_files import RawFile

_BUFFER = 2**20


@dataclass(frozen=True)
class ParquetPiece:
    """Rows of one file.

    Attributes:
        file: source of the rows.
        row: number of the first, from 1.
        batch: the rows.
        done: approximate bytes of the file read so far.
    """

    file: RawFile
    row: int
    batch: pa.RecordBatch
    done: int

    def read(self, columns: Columns) -> tuple[pa.Table, Faults]:
        """Labels and numbers as float64, texts as bytes, of the good rows; and the bad rows.

        Raises:
            DataError: if values cannot be converted.
        """
        faults = Faults()
        try:
            arrays = [self._column(name, columns) for name in columns.names]
        except pa.ArrowException as error:
            raise DataError(
                f"columns must hold numbers or texts, but those of {self.file.path}: {error}"
            ) from None
        rows = self.row + np.arange(len(self.batch))
        table = pa.table(arrays, names=list(columns.names))
        return drop_bad_values(table, self.batch, rows, columns, faults), faults

    def describe(self, fault: tuple[int, str]) -> str:
        """Text of a bad row for error messages."""
        return f"{self.file.path}: row {fault[0]}: {fault[1]}"

    def _column(self, name: str, columns: Columns) -> pa.Array:
        values = self.batch.column(name)
        if name in columns.numbers:
            # Not safe: an integer without an exact float64 is still a number.
            return values.cast(pa.float64(), safe=False)
        if name in columns.lists:
            lists = values.cast(pa.list_(values.type.value_type))
            texts = pa.ListArray.from_arrays(_offsets(lists), _texts(lists.flatten()))
            return texts
        return _texts(values)


def _offsets(lists: pa.ListArray) -> pa.Array:
    """Offsets of the lists in their flattened values, without those of null lists."""
    lengths = lists.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    return pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())


def _texts(values: pa.Array) -> pa.BinaryArray:
    """The bytes of texts; integers as decimal text."""
    if types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if types.is_integer(values.type) or types.is_boolean(values.type):
        values = values.cast(pa.string())
    return values.cast(pa.binary())


def batches(file: RawFile, columns: Columns, rows: int) -> Iterator[ParquetPiece]:
    """Cut a file into pieces of `rows` rows.

    Raises:
        DataError: if the file cannot be read, or a column is missing or holds something else.
    """
    try:
        with file.system.open_input_file(file.path) as stream:
            opened = pq.ParquetFile(stream, buffer_size=_BUFFER, pre_buffer=False)
            _check(opened.schema_arrow, columns, file)
            total = opened.metadata.num_rows
            if not total:
                raise DataError(f"files must hold at least one row, but {file.path} holds none")
            row = 0
            for batch in opened.iter_batches(rows, columns=list(columns.names), use_threads=False):
                done = file.size * (row + len(batch)) // total
                yield ParquetPiece(file, row + 1, batch, done)
                row += len(batch)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"Parquet files must be readable, but {file.path} is not: {error}") from None


def _check(schema: pa.Schema, columns: Columns, file: RawFile) -> None:
    for name in columns.names:
        if schema.names.count(name) != 1:
            names = ", ".join(schema.names)
            raise DataError(f"{file.path} must have one column {name!r}, but has {names}")
        kind = schema.field(name).type
        if name in columns.numbers:
            rule, fits = "numbers", _is_number(kind)
        elif name in columns.lists:
            rule, fits = "lists of texts or integers", _is_list(kind) and _is_text(kind.value_type)
        else:
            rule, fits = "texts or integers", _is_text(kind)
        if not fits:
            raise DataError(f"column {name!r} must hold {rule}, but in {file.path} it holds {kind}")


def _is_number(kind: pa.DataType) -> bool:
    tests = (types.is_integer, types.is_floating, types.is_boolean, types.is_decimal)
    return any(test(kind) for test in tests)


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if types.is_dictionary(kind) else kind
    tests = (
        types.is_integer,
        types.is_boolean,
        types.is_string,
        types.is_large_string,
        types.is_string_view,
        types.is_binary,
        types.is_large_binary,
        types.is_binary_view,
        types.is_fixed_size_binary,
    )
    return any(test(kind) for test in tests)


def _is_list(kind: pa.DataType) -> bool:
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))
