"""Images in memory, as uint8."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from manynet.data.base import Batch, Data, DataError, Images
from manynet.data.images.pixels import Pixels
from manynet.data.order import Rows
from manynet.data.row_access import RandomAccessSplit
from manynet.data.splitting import Parts, split

CHUNK = 4096


@dataclass(frozen=True, eq=False)
class Normalisation:
    """Mean and standard deviation of each channel, in 0..1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, images: Pixels) -> Normalisation:
        """Statistics of uint8 images `(N, C, H, W)`; the deviation of a constant channel is set to 1."""
        total = np.zeros((2, images.shape[1]))
        for at in range(0, len(images), CHUNK):
            chunk = images[at : at + CHUNK].astype(np.float32) / 255
            total += [chunk.sum((0, 2, 3), dtype=np.float64), (chunk**2).sum((0, 2, 3), dtype=np.float64)]
        mean, square = total / (images.size / images.shape[1])
        std = np.sqrt(np.maximum(square - mean**2, 0))
        # Below a thousandth of a grey level it is rounding error.
        return cls(tuple(mean.tolist()), tuple(np.where(std < 4e-6, 1.0, std).tolist()))

    def batch(self, images: Pixels, labels: NDArray[np.int64]) -> Batch:
        """Normalised batch of uint8 images `(B, C, H, W)` and labels `(B,)`, without copying the labels."""
        std = 255 * torch.tensor(self.std).reshape(-1, 1, 1)
        mean = 255 * torch.tensor(self.mean).reshape(-1, 1, 1)
        inputs = torch.from_numpy(images).to(torch.float32).sub_(mean).div_(std)
        return Batch((inputs,), torch.from_numpy(labels))


@dataclass(frozen=True, eq=False)
class MemorySplit(RandomAccessSplit):
    """Images in memory.

    Attributes:
        images: uint8 `(N, C, H, W)`. NumPy, because Ray shares NumPy arrays between the processes of a node
            without copying them.
        labels: int64 `(N,)`.
        normalisation: of the training split.
    """

    images: Pixels
    labels: NDArray[np.int64]
    normalisation: Normalisation

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Rows) -> Batch:
        # Indexing by rows copies, so the result is writable although Ray's shared arrays are read-only.
        return self.normalisation.batch(self.images[rows], self.labels[rows])


def in_memory(name: str, images: Pixels, labels: NDArray[np.int64], parts: Parts, seed: int) -> Data:
    """Make a data set of decoded images.

    Args:
        name: as the user gave it.
        images: uint8 `(N, C, H, W)`.
        labels: int64 `(N,)`.
        parts: rows of the three splits.
        seed: of the splits.
    """
    normalisation = Normalisation.of(images[parts.train])
    train, validation, test = (MemorySplit(images[rows], labels[rows], normalisation) for rows in parts)
    content = hashlib.blake2b(repr((images.shape[1:], seed)).encode(), digest_size=8)
    for part in (train, validation, test):
        content.update(len(part).to_bytes(8, "little"))
        content.update(part.images.data)
        content.update(part.labels.data)
    return Data(
        name=name,
        digest=content.hexdigest(),
        train=train,
        validation=validation,
        test=test,
        features=Images(int(labels.max()) + 1, images.shape[1], normalisation.mean, normalisation.std),
    )


def from_arrays(
    name: str,
    images: Pixels,
    labels: NDArray[Any],
    *,
    parts: Sequence[str] | None = None,
    seed: int = 0,
) -> Data:
    """Make a data set of one's own images.

    Args:
        name: what reports call it.
        images: uint8 `(N, C, H, W)`, grey (`C` 1) or RGB (`C` 3).
        labels: whole numbers from 0, `(N,)`.
        parts: ``"train"``, ``"validation"`` or ``"test"`` of each image. Where validation or test is missing, a tenth
            of the training images is drawn for it, as many of each class; None draws both.
        seed: of the draws.

    Raises:
        DataError: for arrays that are not as above.
    """
    images, labels = np.asarray(images), np.asarray(labels)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise DataError(
            f"images must be uint8 of shape (N, 1 or 3, H, W), but got {images.dtype} of shape {images.shape}"
        )
    if not np.issubdtype(labels.dtype, np.integer) or labels.shape != images.shape[:1] or (labels < 0).any():
        raise DataError(
            f"labels must be whole numbers from 0, one for each of {len(images)} images, "
            f"but got {labels.dtype} of shape {labels.shape}{f' from {labels.min()}' * bool(labels.size)}"
        )
    named = np.array(["train"] * len(labels) if parts is None else list(parts))
    wrong = next((str(one) for one in named if one not in Parts._fields), None)
    if wrong is not None or named.shape != labels.shape:
        raise DataError(
            f"parts must be one of {', '.join(Parts._fields)} for each of {len(images)} images, "
            f"but got {len(named) if wrong is None else repr(wrong)}"
        )
    given = {part: np.flatnonzero(named == part) for part in Parts._fields if part in ("train", *named)}
    labels = labels.astype(np.int64)
    return in_memory(name, np.ascontiguousarray(images), labels, split(labels, given, seed), seed)
