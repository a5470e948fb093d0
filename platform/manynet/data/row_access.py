"""Random-access splits."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from manynet.data.base import Batch, Split, generator
from manynet.data.held_out import parts
from manynet.data.order import Rows, check_batches, check_share, regroup, share


class RandomAccessSplit(Split):
    """A split that reads any rows at the same cost: in memory."""

    @abstractmethod
    def take(self, rows: Rows) -> Batch:
        """The examples of `rows`, as tensors that share no memory with the split."""

    def batches(self, size: int, limit: int | None = None) -> Iterator[Batch]:
        check_batches(size, limit)
        end = min(len(self), limit or len(self))
        return (self.take(np.arange(at, min(at + size, end))) for at in range(0, end, size))

    def stream(
        self, size: int, *, seed: int, start: int = 0, rank: int = 0, world: int = 1
    ) -> Iterator[Batch]:
        check_share(size, start, rank, world)

        def epoch(number: int) -> list[Rows]:
            return [generator("epoch", seed, number).permutation(len(self))]

        own = share(epoch, len(self), size=size, start=start, rank=rank, world=world)
        return (self.take(rows) for (rows,) in regroup(((rows,) for rows in own), size // world))

    def divided(self, share: float, *, seed: int) -> tuple[Split, Split]:
        rows = np.arange(len(self))
        drawn, rest = (Subset(self, part.of(rows)) for part in parts(share, seed))
        return drawn, rest


@dataclass(frozen=True, eq=False)
class Subset(RandomAccessSplit):
    """Some rows of a split in memory, without a copy."""

    whole: RandomAccessSplit
    rows: Rows

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, rows: Rows) -> Batch:
        return self.whole.take(self.rows[rows])
