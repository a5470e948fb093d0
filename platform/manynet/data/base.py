"""What a data set is: batches, splits, and the three splits with what is known of them."""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch import Tensor

from manynet.errors import ManynetError


class DataError(ManynetError, ValueError):
    """A data set that cannot be read, or is asked for in a way it cannot answer."""


class Batch(NamedTuple):
    """Examples that are processed together.

    Attributes:
        inputs: what the network is called with; of images one float32 tensor `(B, C, H, W)`, normalised.
        targets: what it should answer; of classification int64 `(B,)`.
    """

    inputs: tuple[Tensor, ...]
    targets: Tensor


class Split(ABC):
    """One part of a data set. Pickles, so that it can be sent to workers."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of examples."""

    @abstractmethod
    def batches(self, size: int, limit: int | None = None) -> Iterator[Batch]:
        """Go through the split once, always in the same (mixed) order.

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
            start: joint batches to skip, without reading them: where a resumed run goes on.
            rank: which worker this is.
            world: how many workers share the stream.

        Raises:
            DataError: if `size` is not a positive multiple of `world`, or `rank` is not below it.
        """


@dataclass(frozen=True)
class Data:
    """A data set in three splits.

    Attributes:
        name: as it was asked for.
        digest: identity of the content, the splits and the conversions, 16 hexadecimal digits.
        train: what weights are trained on.
        validation: what a search scores on.
        test: what finalists are scored on, once.
        classes: 1 + the largest label.
        channels: 1 (grey) or 3 (RGB), after conversion.
        mean: of each channel over the training split, in 0..1.
        std: as `mean`.
    """

    name: str
    digest: str
    train: Split
    validation: Split
    test: Split
    classes: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


def generator(purpose: str, *numbers: int) -> np.random.Generator:
    """Random numbers for one purpose, so that equal seeds of two purposes do not draw alike."""
    return np.random.default_rng([zlib.crc32(purpose.encode()), *numbers])
