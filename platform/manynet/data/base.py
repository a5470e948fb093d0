"""Interfaces of data sets: batches, splits, and a data set with its three splits and features."""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from manynet.data.features import Features
from manynet.errors import ManynetError


class DataError(ManynetError, ValueError):
    """A data set cannot be read, or got invalid arguments."""


class Batch(NamedTuple):
    """Examples that are processed together.

    Attributes:
        inputs: arguments of the network; of images one float32 tensor `(B, C, H, W)`, normalised; of
            click-through data float32 `(B, dense_width)` and int64 `(B, ids_width)`.
        targets: of images int64 `(B,)`, of click-through data float32 `(B,)`.
    """

    inputs: tuple[Tensor, ...]
    targets: Tensor


class Split(ABC):
    """One part of a data set. Picklable, so that it can be sent to workers."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of examples."""

    @abstractmethod
    def batches(self, size: int, limit: int | None = None) -> Iterator[Batch]:
        """Iterate over the split once, always in the same shuffled order.

        Args:
            size: examples a batch; the last batch may be shorter.
            limit: stop after this many examples; None is all of them.

        Raises:
            DataError: if `size` or `limit` is below 1.
        """

    @abstractmethod
    def stream(
        self, size: int, *, seed: int, start: int = 0, rank: int = 0, world: int = 1
    ) -> Iterator[Batch]:
        """Endless training batches, for one of `world` workers.

        Epochs are permutations drawn from `(seed, epoch)`, laid end to end and cut into joint batches; a
        worker gets the `rank`-th of `world` equal contiguous parts of each. So the joint batches are the
        same whatever the number of workers.

        Args:
            size: examples in a joint batch, over all workers; a worker's batch has `size // world`.
            seed: of the permutations.
            start: joint batches to skip, without reading them, when a run resumes.
            rank: which worker this is.
            world: how many workers share the stream.

        Raises:
            DataError: if `size` is not a positive multiple of `world`, `rank` is not from 0 to below it, or
                `start` is below 0.
        """

    @abstractmethod
    def divided(self, share: float, *, seed: int) -> tuple[Split, Split]:
        """Two splits with no example in common: about `share` of this one's examples, and the rest.

        Args:
            share: above 0 and below 1.
            seed: that draws them.

        Raises:
            DataError: if `share` is not within.
        """


@dataclass(frozen=True)
class Images:
    """Properties of all examples of an image data set.

    Attributes:
        classes: 1 + the largest label.
        channels: 1 (grey) or 3 (RGB), after conversion.
        mean: of each channel over the training split, in 0..1.
        std: as `mean`.
    """

    classes: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def preprocessing(self) -> dict[str, Any]:
        """Preprocessing of an image for an exported network."""
        return {
            "channels": self.channels,
            "scale": "pixels from 0 to 1",
            "mean": self.mean,
            "std": self.std,
            "resize": "bilinear with antialiasing, to the input's height and width",
        }


@dataclass(frozen=True)
class Data:
    """A data set in three splits.

    Attributes:
        name: as the user gave it.
        digest: identity of the content, the splits and the conversions, 16 hexadecimal digits.
        train: trains weights.
        validation: scores candidates of a search.
        test: scores finalists, once.
        features: describes its examples.
        conversion: of click-through data, from raw values to `features`.
    """

    name: str
    digest: str
    train: Split
    validation: Split
    test: Split
    features: Images | Features
    conversion: Mapping[str, Any] = field(default_factory=dict)

    def preprocessing(self) -> dict[str, Any]:
        """Preprocessing that an exported network expects, as JSON values."""
        return {**self.features.preprocessing(), **self.conversion}


def generator(purpose: str, *numbers: int) -> np.random.Generator:
    """Random generator for one purpose: equal seeds of two purposes give independent draws."""
    return np.random.default_rng([zlib.crc32(purpose.encode()), *numbers])
