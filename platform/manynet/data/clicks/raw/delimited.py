"""Reads delimited text into columns, in pieces of whole lines."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from manynet.data.base import DataError
from manynet.data.clicks.raw.bad_rows import Faults, drop_bad_values, is_sound
from manynet.data.clicks.raw.layout import Columns, Dialect
from manynet.data.clicks.raw.lines import is_plain, sound_lines
from manynet.data.raw_files import RawFile, open_raw

# About what fits in a processor's cache during parsing, hashing and the logarithm.
PIECE_BYTES = 2 * 2**20
LONGEST_LINE = 64 * 2**20
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_NUMBER = r"^[ \t]*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?[ \t]*$"


@dataclass(frozen=True)
class TextPiece:
    """Whole lines of one file.

    Attributes:
        file: source of the lines.
        line: number of the first, from 1.
        text: the lines, each with its line feed.
        header: the columns of the file.
        dialect: of the file.
        done: bytes of the file, as stored, read so far.
    """

    file: RawFile
    line: int
    text: bytes
    header: tuple[str, ...]
    dialect: Dialect
    done: int

    def read(self, columns: Columns) -> tuple[pa.Table, Faults]:
        """Labels and numbers as float64, texts as bytes, of the good rows; and the bad rows."""
        faults = Faults()
        table = self._parse_if_sound(self.text, columns) if is_plain(self.text, self.dialect) else None
        if table is not None:
            return table, faults
        text, lines = sound_lines(self.text, self.line, len(self.header), self.dialect, faults)
        table = self._parse_if_sound(text, columns)
        if table is not None:
            return table, faults
        raw = self._parse(text, columns, pa.binary())
        table = raw
        for at, name in enumerate(columns.numbers):
            table = table.set_column(at, name, _numbers(raw.column(name)))
        return drop_bad_values(table, raw, lines, columns, faults), faults

    def _parse_if_sound(self, text: bytes, columns: Columns) -> pa.Table | None:
        """Parse all rows at once; None if any is bad."""
        try:
            table = self._parse(text, columns, pa.float64())
        except pa.ArrowInvalid:
            return None
        return table if is_sound(table, columns) else None

    def describe(self, fault: tuple[int, str]) -> str:
        """Text of a bad row for error messages."""
        return f"{self.file.path}:{fault[0]}: {fault[1]}"

    def _parse(self, text: bytes, columns: Columns, numbers: pa.DataType) -> pa.Table:
        types = {name: numbers for name in columns.numbers} | dict.fromkeys(columns.texts, pa.binary())
        if not text:
            return pa.table({name: pa.array([], kind) for name, kind in types.items()})
        return pa.csv.read_csv(
            pa.BufferReader(text),
            # One block: the pieces are small, and several are read at a time.
            pa.csv.ReadOptions(use_threads=False, block_size=len(text) + 1, column_names=self.header),
            pa.csv.ParseOptions(
                delimiter=self.dialect.separator, quote_char='"' if self.dialect.quoted else False
            ),
            pa.csv.ConvertOptions(column_types=types, include_columns=list(types), null_values=[""]),
        )


def _numbers(texts: pa.ChunkedArray) -> pa.Array:
    """Numbers of texts: null where empty, infinite where too large, NaN where not a number."""
    missing = pc.equal(texts, b"")
    # Not Arrow's cast, which fails for all texts if one is not a number, or too large.
    texts = pc.if_else(pc.match_substring_regex(texts, _NUMBER), texts, b"nan")
    with np.errstate(over="ignore"):
        return pa.array(texts.to_numpy().astype(bytes).astype(np.float64), mask=missing.to_numpy())


def pieces(file: RawFile, columns: Columns, dialect: Dialect, size: int) -> Iterator[TextPiece]:
    """Cut a file into pieces of about `size` bytes.

    Raises:
        DataError: if the file cannot be read, has no rows, or its header lacks a column.
    """
    header = dialect.header
    line, empty = 1, True
    with open_raw(file) as (stream, stored):
        for text in _whole_lines(stream, size, file):
            count = text.count(b"\n")
            if not header:
                first, text = text.split(b"\n", 1)
                header = _read_header(first, columns, dialect, file)
                line, count = 2, count - 1
            if text[:1] not in b"\r\n" or text.strip(b"\r\n"):
                empty = False
                yield TextPiece(file, line, text, header, dialect, stored.tell())
            line += count
    if empty:
        raise DataError(f"files must hold at least one row, but {file.path} holds none")


def _whole_lines(stream: Any, size: int, file: RawFile) -> Iterator[bytes]:
    rest = stream.read(len(_BYTE_ORDER_MARK))
    rest = rest.removeprefix(_BYTE_ORDER_MARK)
    while chunk := stream.read(size):
        end = chunk.rfind(b"\n") + 1
        if end:
            yield b"".join([rest, memoryview(chunk)[:end]])
            rest = b""
        rest += chunk[end:]
        if len(rest) > LONGEST_LINE:
            raise DataError(
                f"lines must be shorter than {LONGEST_LINE:,} bytes, but one of {file.path} is not"
            )
    if rest:
        yield rest + b"\n"


def _read_header(line: bytes, columns: Columns, dialect: Dialect, file: RawFile) -> tuple[str, ...]:
    try:
        header = next(csv.reader([line.decode()], delimiter=dialect.separator, strict=True), [])
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"the first line must name the columns, but that of {file.path} does not: {error}"
        ) from None
    header = [name.strip() for name in header]
    for name in columns.names:
        if header.count(name) != 1:
            times = "more than once" if name in header else "not at all"
            raise DataError(
                f"the first line must name column {name!r} once, but that of {file.path} names it {times}"
            )
    return tuple(header)
