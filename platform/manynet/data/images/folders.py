"""Folders of image files, one folder a class."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from manynet.data.base import Data, DataError
from manynet.data.images.in_memory import in_memory
from manynet.data.images.pixels import CHUNK, ImageShape, Pixels, choose_shape, decode, probe, threaded
from manynet.data.images.streamed import Columns, Reader, Source, streamed
from manynet.data.order import Rows
from manynet.data.splitting import NAMES, split

EXTENSIONS = frozenset([".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"])


@dataclass(frozen=True, eq=False)
class Listing:
    """The image files of a folder: paths relative to it, labels `(N,)`, and rows of its split folders."""

    root: Path
    paths: list[str]
    labels: NDArray[np.int64]
    given: dict[str, Rows]


def load_images(
    name: str, path: str, *, channels: int | None, image_size: int | None, seed: int, memory: int
) -> Data:
    """Read `PATH/<class>/*.png|jpg|...`, or the same below `PATH/train`, `PATH/val(idation)`, `PATH/test`.

    Labels are indices of class names in alphabetical order. Missing splits are drawn from the training
    images, a tenth each. The header of every file is read first. A set that fits in memory is decoded at once; a
    larger one is streamed by Ray tasks, which need the same path on every node.

    Raises:
        DataError: naming the file or folder that is missing, empty or unreadable.
    """
    listing = list_images(path)
    parts = split(listing.labels, listing.given, seed)
    shape = choose_shape(_probe(listing), channels, image_size)
    if shape.bytes * len(listing.paths) > memory:
        return streamed(name, FolderSource.of(listing, shape), parts, seed)
    return in_memory(name, _decode(listing, shape), listing.labels, parts, seed)


def list_images(path: str) -> Listing:
    """Find the classes and images of a folder without opening a file.

    Raises:
        DataError: see `load_images`.
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        raise DataError(f"images:PATH must be a folder of class folders, but got {path!r}")
    folders = _split_folders(root)
    classes = _folders(folders["train"])
    if not classes:
        raise DataError(f"an image folder must hold one folder a class, but {folders['train']} holds none")
    paths: list[str] = []
    labels: list[int] = []
    given: dict[str, Rows] = {}
    for name, folder in folders.items():
        first = len(paths)
        for kind in _folders(folder):
            if kind not in classes:
                raise DataError(f"classes must be among those of train, but {folder} has {kind!r}")
            files = list(_files(folder / kind))
            if not files and name == "train":
                raise DataError(
                    f"each class must have images ({', '.join(sorted(EXTENSIONS))}), but {folder / kind} has none"
                )
            paths += [os.path.relpath(file, root) for file in files]
            labels += [classes.index(kind)] * len(files)
        given[name] = np.arange(first, len(paths))
    return Listing(root, paths, np.array(labels, dtype=np.int64), given)


def _split_folders(root: Path) -> dict[str, Path]:
    if not (root / "train").is_dir():
        return {"train": root}
    folders: dict[str, Path] = {}
    for folder in (root / name for name in NAMES if (root / name).is_dir()):
        other = folders.setdefault(NAMES[folder.name], folder)
        if other != folder:
            raise DataError(f"there must be one {NAMES[folder.name]} folder, but got {other} and {folder}")
    return folders


def _folders(path: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(path) if entry.is_dir() and entry.name[0] not in "._")


def _files(folder: Path) -> Iterator[str]:
    for path, folders, names in os.walk(folder, followlinks=True):
        folders.sort()
        for name in sorted(names):
            if name[0] != "." and os.path.splitext(name)[1].lower() in EXTENSIONS:
                yield os.path.join(path, name)


def _probe(listing: Listing) -> list[ImageShape]:
    def read(rows: range) -> list[ImageShape]:
        paths = [str(listing.root / listing.paths[row]) for row in rows]
        return [probe(path, path) for path in paths]

    return [shape for shapes in threaded(read, len(listing.paths)) for shape in shapes]


def _decode(listing: Listing, shape: ImageShape) -> Pixels:
    images = np.empty((len(listing.paths), *shape), dtype=np.uint8)

    def read(rows: range) -> None:
        for row in rows:
            path = str(listing.root / listing.paths[row])
            images[row] = decode(path, path, shape)

    threaded(read, len(images))
    return images


@dataclass(frozen=True, eq=False)
class FolderSource(Source):
    """Image files, opened one by one: any order is equally cheap.

    Attributes:
        root: folder that `paths` start from.
        paths: an Arrow array: a million Python strings would be slow to send.
        sizes: of the files, in bytes.
    """

    root: str
    paths: pa.StringArray
    sizes: NDArray[np.int64]
    labels: NDArray[np.int64]
    shape: ImageShape

    @classmethod
    def of(cls, listing: Listing, shape: ImageShape) -> FolderSource:
        """Source of the listed files."""
        sizes = np.array([os.path.getsize(listing.root / path) for path in listing.paths])
        root = str(listing.root.resolve())
        return cls(root, pa.array(listing.paths, pa.string()), sizes, listing.labels, shape)

    def order(self, rows: Rows, random: np.random.Generator | None = None) -> Iterator[Rows]:
        # The same draws as for splits in memory, so that batches are the same from memory and from disk.
        mixed = rows if random is None else rows[random.permutation(len(rows))]
        return (mixed[at : at + CHUNK] for at in range(0, len(mixed), CHUNK))

    def places(self, rows: Rows) -> pa.Table:
        return pa.table({"path": self.paths.take(pa.array(rows))})

    def reader(self) -> Reader:
        return functools.partial(_read_files, root=self.root, shape=self.shape)

    def identity(self) -> bytes:
        content = hashlib.blake2b("\0".join(self.paths.to_pylist()).encode())
        content.update(self.sizes.data)
        return content.digest()


def _read_files(places: Columns, root: str, shape: ImageShape) -> Iterator[Columns]:
    files = [os.path.join(root, path) for path in places["path"]]
    # Small yields bound a task's memory; Ray Data joins them to blocks.
    for at in range(0, len(files), 32):
        images = np.stack([decode(file, file, shape) for file in files[at : at + 32]])
        yield {"image": images, "label": places["label"][at : at + 32]}
