"""Folders of idx files, the format of MNIST (http://yann.lecun.com/exdb/mnist)."""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from manynet.data.base import Data, DataError
from manynet.data.images.in_memory import in_memory
from manynet.data.images.pixels import ImageShape, Pixels, choose_shape, conform
from manynet.data.splitting import split

UNSIGNED_BYTE = 8


def load_idx(name: str, path: str, *, channels: int | None, image_size: int | None, seed: int) -> Data:
    """Read `train-images-idx3-ubyte`, `train-labels-idx1-ubyte` and, if present, the same of `t10k-`.

    Files may be gzipped (`.gz`). Images are grey (idx3) or colour with channels last (idx4). With `t10k-`
    files those are the test split and training is split 9:1; without, 8:1:1.

    Raises:
        DataError: naming the file that is missing, truncated, or of another format than its name says.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise DataError(f"idx:PATH must be a folder of idx files, but got {path!r}")
    images, labels = _pair(folder, "train")
    given = {"train": np.arange(len(labels))}
    if _find(folder, "t10k", "images", (3, 4)) or _find(folder, "t10k", "labels", (1,)):
        test_images, test_labels = _pair(folder, "t10k")
        if test_images.shape[1:] != images.shape[1:]:
            raise DataError(
                f"t10k images must be {images.shape[1:]} as the train images of {path} are, but got {test_images.shape[1:]}"
            )
        given["test"] = np.arange(len(labels), len(labels) + len(test_labels))
        images, labels = np.concatenate([images, test_images]), np.concatenate([labels, test_labels])
    targets = labels.astype(np.int64)
    native = ImageShape(images.shape[3], images.shape[1], images.shape[2])
    pixels = conform(images, choose_shape([native], channels, image_size))
    return in_memory(name, pixels, targets, split(targets, given, seed), seed)


def _pair(folder: Path, part: str) -> tuple[Pixels, Pixels]:
    """Images `(N, H, W, C)` and labels `(N,)`."""
    images_path = _require(folder, part, "images", (3, 4))
    labels_path = _require(folder, part, "labels", (1,))
    images, labels = _read(images_path, (3, 4)), _read(labels_path, (1,))
    if len(images) != len(labels):
        raise DataError(
            f"there must be one label an image, but {images_path} has {len(images)} images "
            f"and {labels_path} {len(labels)} labels"
        )
    if not images.size:
        raise DataError(
            f"idx images must hold at least one pixel, but {images_path} has shape {images.shape}"
        )
    if images.ndim == 3:
        return images[..., None], labels
    if images.shape[3] not in (1, 3):
        raise DataError(
            f"idx4 images must have 1 or 3 channels, last, but {images_path} has {images.shape[3]}"
        )
    return images, labels


def _find(folder: Path, part: str, kind: str, dimensions: Sequence[int]) -> Path | None:
    names = [
        f"{part}-{kind}{mark}idx{number}-ubyte{suffix}"
        for number in dimensions
        for mark in "-."
        for suffix in ("", ".gz")
    ]
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _require(folder: Path, part: str, kind: str, dimensions: Sequence[int]) -> Path:
    path = _find(folder, part, kind, dimensions)
    if path is None:
        name = f"{part}-{kind}-idx{dimensions[0]}-ubyte"
        raise DataError(f"an idx folder must hold {name} or {name}.gz, but {folder} does not")
    return path


def _read(path: Path, dimensions: Sequence[int]) -> Pixels:
    """The array of an idx file: magic number, sizes as big-endian 32-bit integers, then the bytes."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"idx files must be whole, but {path} cannot be read: {error}") from None
    if len(content) < 4 or content[:3] != bytes([0, 0, UNSIGNED_BYTE]) or content[3] not in dimensions:
        allowed = " or ".join(f"0x{UNSIGNED_BYTE << 8 | number:08x}" for number in dimensions)
        raise DataError(f"the magic number must be {allowed}, but {path} has 0x{content[:4].hex() or '0'}")
    start = 4 + 4 * content[3]
    shape = [int(size) for size in np.frombuffer(content[4:start].ljust(start - 4, b"\0"), dtype=">u4")]
    # Not NumPy's product: the sizes of a damaged header could overflow.
    expected = start + math.prod(shape)
    if expected != len(content):
        raise DataError(f"idx sizes {tuple(shape)} must give {expected} bytes, but {path} has {len(content)}")
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape)
