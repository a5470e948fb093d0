"""Parquet files with a column of images and a column of labels, at any address that pyarrow opens."""

from __future__ import annotations

import functools
import hashlib
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from manynet.data.base import Data, DataError, generator
from manynet.data.images.in_memory import in_memory
from manynet.data.images.parquet_columns import labels_of
from manynet.data.images.pixels import ImageShape, Pixels, choose_shape, conform, decode, probe, threaded
from manynet.data.images.streamed import Columns, Reader, Source, streamed
from manynet.data.order import Rows
from manynet.data.parquet_files import Files, find_files
from manynet.data.splitting import NAMES, split

NAMED = re.compile(rf"({'|'.join(NAMES)})(?![a-z0-9])")
SAMPLED_GROUPS = 4
# Size of the shuffle buffer in rows. It holds whole row groups, so that each is read once an epoch.
WINDOW = 2048


def load_parquet(
    name: str, address: str, *, channels: int | None, image_size: int | None, seed: int, memory: int
) -> Data:
    """Read images and labels of one `.parquet` file or of all in a folder.

    The image column (`image`, `img`, ...) holds encoded files, structs with a field `bytes` as Hugging Face
    writes them, or arrays of pixels `(H, W)` or `(H, W, C)`. The label column (`label`, `labels`,
    `fine_label`, `target`) holds integers from 0. Splits are those of a column `split`, or of files or
    folders named `train...`, `val...`, `test...`; missing ones are drawn from the training rows, a
    tenth each. A set too large for memory is streamed: row groups in random order, rows shuffled within a
    window of about 2048; the shape of its images is chosen by a sample.

    Raises:
        DataError: naming the file, the column or the row that is wrong.
    """
    files = find_files(address)
    labels = _labels(files)
    parts = split(labels, _given(files, len(labels)), seed)
    if files.encoded <= memory:
        values = [files.images(group) for group in range(len(files.starts) - 1)]
        shape = choose_shape(_shapes(files, range(len(values)), values), channels, image_size)
        if shape.bytes * len(labels) <= memory:
            return in_memory(name, _decode(files, values, shape), labels, parts, seed)
    else:
        groups = generator("shapes").permutation(len(files.starts) - 1)[:SAMPLED_GROUPS].tolist()
        values = [files.images(group) for group in groups]
        shape = choose_shape(_shapes(files, groups, values), channels, image_size)
    return streamed(name, ParquetSource(files, labels, shape), parts, seed)


def _labels(files: Files) -> NDArray[np.int64]:
    column = files.columns.label
    by_file = [labels_of(files.columns_of(at, [column])[column], path) for at, path in enumerate(files.paths)]
    labels = np.concatenate(by_file)
    if not len(labels):
        raise DataError(f"Parquet files must hold rows, but {files.root} holds none")
    return labels


def _given(files: Files, count: int) -> dict[str, Rows]:
    """Rows of the splits that the data set defines."""
    names = _split_column(files) if files.columns.split else _split_files(files)
    if names is None:
        return {"train": np.arange(count)}
    if "train" not in names:
        raise DataError(f"there must be rows of the train split, but {files.root} has {sorted(set(names))}")
    return {name: np.flatnonzero(names == name) for name in dict.fromkeys(NAMES.values()) if name in names}


def _split_column(files: Files) -> NDArray[np.object_]:
    tables = [files.columns_of(at, ["split"]) for at in range(len(files.paths))]
    written = np.array([str(name) for table in tables for name in table["split"].to_pylist()], dtype=object)
    unknown = sorted(set(written) - set(NAMES))
    if unknown:
        raise DataError(f"split must be one of ({', '.join(NAMES)}), but {files.root} has {unknown[0]!r}")
    return np.array([NAMES[name] for name in written], dtype=object)


def _split_files(files: Files) -> NDArray[np.object_] | None:
    named: list[str | None] = []
    for path in files.paths:
        inside = PurePosixPath(path).relative_to(files.root).parts
        matches = (NAMED.match(part.lower()) for part in inside)
        named.append(next((NAMES[match[1]] for match in matches if match), None))
    if not any(named):
        return None
    if None in named:
        unnamed = files.paths[named.index(None)]
        raise DataError(
            f"either all files or none must be named for a split (train, val, test), but got {unnamed}"
        )
    return np.repeat(np.array(named, dtype=object), [sum(groups) for groups in files.groups])


def _shapes(
    files: Files, groups: list[int] | range, values: list[list[memoryview] | Pixels]
) -> list[ImageShape]:
    """Native shapes of the images of some row groups."""
    shapes: list[ImageShape] = []
    for group, images in zip(groups, values, strict=True):
        if isinstance(images, np.ndarray):
            height, width, channels = images.shape[1:]
            shapes += [ImageShape(channels, height, width)] * len(images)
            continue
        first = int(files.starts[group])
        shapes += [probe(io.BytesIO(image), files.place(first + at)) for at, image in enumerate(images)]
    return shapes


def _decode(files: Files, values: list[list[memoryview] | Pixels], shape: ImageShape) -> Pixels:
    decoded = np.empty((files.starts[-1], *shape), dtype=np.uint8)
    for first, images in zip(files.starts[:-1].tolist(), values, strict=True):

        def read(rows: range, first: int = first, images: list[memoryview] | Pixels = images) -> None:
            for row in rows:
                decoded[first + row] = _pixels(images[row], files.place(first + row), shape)

        threaded(read, len(images))
    return decoded


def _pixels(image: memoryview | Pixels, name: str, shape: ImageShape) -> Pixels:
    if isinstance(image, np.ndarray):
        return np.asarray(conform(image[None], shape)[0])
    return decode(io.BytesIO(image), name, shape)


@dataclass(frozen=True, eq=False)
class ParquetSource(Source):
    """Rows of Parquet files, which are cheap to read by whole row groups."""

    files: Files
    labels: NDArray[np.int64]
    shape: ImageShape

    def order(self, rows: Rows, random: np.random.Generator | None = None) -> Iterator[Rows]:
        random = random or generator("fixed order")
        rows = np.sort(rows)
        groups = np.split(rows, np.flatnonzero(np.diff(self.files.group_of(rows))) + 1)
        window: list[Rows] = []
        for at in random.permutation(len(groups)):
            window.append(groups[at])
            if sum(map(len, window)) >= WINDOW:
                yield random.permutation(np.concatenate(window))
                window = []
        if window:
            yield random.permutation(np.concatenate(window))

    def places(self, rows: Rows) -> pa.Table:
        return pa.table({"row": rows})

    def reader(self) -> Reader:
        return functools.partial(_read_rows, files=self.files, shape=self.shape)

    def identity(self) -> bytes:
        written = repr([PurePosixPath(path).name for path in self.files.paths] + self.files.groups)
        return hashlib.blake2b(f"{written} {self.files.encoded}".encode()).digest()


def _read_rows(places: Columns, files: Files, shape: ImageShape) -> Iterator[Columns]:
    rows = places["row"]
    groups = files.group_of(rows)
    images_by_group = {group: files.images(group) for group in np.unique(groups).tolist()}
    insides = rows - files.starts[groups]
    # Small yields bound a task's decoded images; Ray Data joins them to blocks.
    for at in range(0, len(rows), 32):
        chunk = slice(at, at + 32)
        chunk_rows = zip(groups[chunk].tolist(), insides[chunk].tolist(), rows[chunk].tolist(), strict=True)
        images = [
            _pixels(images_by_group[group][inside], files.place(row), shape)
            for group, inside, row in chunk_rows
        ]
        yield {"image": np.stack(images), "label": places["label"][chunk]}
