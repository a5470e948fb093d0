"""Converts raw click-through logs to the Parquet files of a data set."""

from __future__ import annotations

import hashlib
import json
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict

from manynet.data.base import DataError
from manynet.data.clicks.raw.avazu import avazu_layout
from manynet.data.clicks.raw.bad_row_policy import BadRowPolicy, Piece
from manynet.data.clicks.raw.bad_rows import Faults
from manynet.data.clicks.raw.columnar import batches
from manynet.data.clicks.raw.criteo import criteo_layout
from manynet.data.clicks.raw.declared import declared_files, declared_layout, read_declaration
from manynet.data.clicks.raw.delimited import PIECE_BYTES, pieces
from manynet.data.clicks.raw.kdd import kdd_files, kdd_layout
from manynet.data.clicks.raw.layout import Layout
from manynet.data.clicks.raw.output import SplitWriter, check_folder, clear_folder
from manynet.data.clicks.raw.reading_bar import ReadingBar, no_bar
from manynet.data.clicks.raw.stratify import SPLITS, Stratifier
from manynet.data.clicks.raw.transform import Examples, transform
from manynet.data.clicks.schema import Schema, check_labels, write_schema
from manynet.data.features import Features
from manynet.data.raw_files import RawFile, find_files
from manynet.storage import join

_SOURCES = "criteo:PATH, avazu:PATH, kdd:FOLDER or schema:FILE"
# Each keeps a piece and its result in memory; more threads would not be faster.
_THREADS = min(4, os.cpu_count() or 1)
_BYTES_A_ROW = 256


def convert(
    source: str,
    folder: str,
    *,
    table_rows: int | None = None,
    tokens: bool = False,
    seed: int = 0,
    skip_bad: bool = False,
    piece_bytes: int = PIECE_BYTES,
    bar: ReadingBar = no_bar,
) -> Schema:
    """Convert raw logs into a data set of three splits.

    Numbers become log(max(x, 0) + 1), texts rows of a table, by a hash (see `hashing`); missing values are 0
    for both. Every tenth row of each class, drawn by the seed, is for validation, every tenth for testing.
    Files are streamed, so memory does not grow with their size, except for files joined to `kdd:` (8
    bytes a user; with tokens, 13 bytes a text, and 30 while its file is read).

    Args:
        source: `criteo:PATH`, `avazu:PATH` (a file, a folder or a pattern), `kdd:FOLDER`, or `schema:FILE`, a
            YAML file that declares any other log of delimited text or Parquet.
        folder: output, a local path or pyarrow address: new, or left by an interrupted conversion.
        table_rows: most rows of a table; None keeps the source's sizes.
        tokens: for `kdd:`, also join the tokens of texts as multi-valued features.
        seed: of the splits.
        skip_bad: drop and count bad rows instead of raising at the first.
        piece_bytes: bytes of decompressed text read at once; no result depends on it.
        bar: shows how many bytes of each file are read.

    Returns:
        The schema, as `read_schema` reads it.

    Raises:
        DataError: for a source that is missing, damaged or in another format, a folder in use, an empty split,
            or labels that are all equal.
    """
    if seed < 0:
        raise DataError(f"seed must be at least 0, but got {seed}")
    if piece_bytes < 1:
        raise DataError(f"piece_bytes must be at least 1, but got {piece_bytes}")
    check_folder(folder)
    policy = BadRowPolicy(skip_bad)
    files, layout = _open(source, table_rows, tokens, policy, bar)
    clear_folder(folder)
    writers = [SplitWriter(join(folder, name), layout.features) for name in SPLITS]
    _copy(files, layout, piece_bytes, policy, seed, writers, bar)
    for writer in writers:
        writer.close()
    schema = Schema(
        source=layout.source,
        files=tuple(file.name for file in files),
        label=layout.columns.label,
        features=layout.features,
        seed=seed,
        rows={name: writer.rows for name, writer in zip(SPLITS, writers, strict=True)},
        positives={name: writer.positives for name, writer in zip(SPLITS, writers, strict=True)},
        dropped=dict(sorted(policy.dropped.items())),
        digest=_digest(layout.features, writers),
    )
    _check(schema)
    write_schema(folder, schema)
    return schema


def _open(
    source: str, table_rows: int | None, tokens: bool, policy: BadRowPolicy, bar: ReadingBar
) -> tuple[list[RawFile], Layout]:
    kind, _, path = source.partition(":")
    if tokens and kind != "kdd":
        raise DataError(f"tokens are only joined to kdd:FOLDER, but got {source!r}")
    if path and kind == "criteo":
        return find_files(path), criteo_layout(table_rows)
    if path and kind == "avazu":
        return find_files(path), avazu_layout(table_rows)
    if path and kind == "kdd":
        return kdd_files(path), kdd_layout(path, table_rows, tokens, policy, bar)
    if path and kind == "schema":
        declared = read_declaration(path)
        files = declared_files(path, declared)
        return files, declared_layout(path, declared, files, table_rows)
    raise DataError(f"source must be {_SOURCES}, but got {source!r}")


def _copy(
    files: list[RawFile],
    layout: Layout,
    piece_bytes: int,
    policy: BadRowPolicy,
    seed: int,
    writers: list[SplitWriter],
    bar: ReadingBar,
) -> None:
    """Convert all rows: count, split and write them in the order of the files."""
    stratifier = Stratifier(seed)
    size = sum(file.size for file in files)
    with bar("converting", size) as show, ThreadPoolExecutor(_THREADS) as pool:
        for piece, done, result in _submitted(pool, files, layout, piece_bytes):
            examples, faults = result.result()
            policy.add(piece, len(examples.labels), faults)
            for writer, rows in zip(writers, stratifier.deal(examples.labels), strict=True):
                writer.add(examples, rows)
            show(done)


def _submitted(
    pool: ThreadPoolExecutor, files: list[RawFile], layout: Layout, piece_bytes: int
) -> Iterator[tuple[Piece, int, Future[tuple[Examples, Faults]]]]:
    """Pieces in order, a few of them prefetched, each with the bytes of all files up to its end."""

    def converted(piece: Piece) -> tuple[Examples, Faults]:
        table, faults = piece.read(layout.columns)
        return transform(table, layout), faults

    pending: deque[tuple[Piece, int, Future[tuple[Examples, Faults]]]] = deque()
    before = 0
    for file in files:
        for piece in _pieces(file, layout, piece_bytes):
            pending.append((piece, before + piece.done, pool.submit(converted, piece)))
            if len(pending) > _THREADS:
                yield pending.popleft()
        before += file.size
    yield from pending


def _pieces(file: RawFile, layout: Layout, piece_bytes: int) -> Iterator[Piece]:
    if layout.dialect is None:
        return batches(file, layout.columns, max(1, piece_bytes // _BYTES_A_ROW))
    return pieces(file, layout.columns, layout.dialect, piece_bytes)


def _digest(features: Features, writers: list[SplitWriter]) -> str:
    content = [asdict(features), [writer.digest.hexdigest() for writer in writers]]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def _check(schema: Schema) -> None:
    total = sum(schema.rows.values())
    empty = [name for name, rows in schema.rows.items() if not rows]
    if empty:
        raise DataError(
            f"each split must hold at least one row, but {empty[0]} is empty ({total:,} rows in all)"
        )
    positives = sum(schema.positives.values())
    if positives in (0, total):
        raise DataError(
            f"labels must be both 0 and 1, but all {total:,} rows have label {int(positives > 0)}"
        )
    check_labels(schema, f"{positives:,} of {total:,} rows have label 1")
