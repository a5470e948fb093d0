"""Splits whose examples are at hand by their row: the orders that they are gone through in."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from manynet.data.base import Batch, Split, generator
from manynet.data.held_out import parts
from manynet.data.order import Rows, check_batches, check_share, regroup, share


class HeldSplit(Split):
    """A split in memory."""

    @abstractmethod
    def take(self, rows: Rows) -> Batch:
        """The examples of some rows, as tensors that share no memory with the split."""

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

        mine = share(epoch, len(self), size=size, start=start, rank=rank, world=world)
        return (self.take(rows) for (rows,) in regroup(((rows,) for rows in mine), size // world))

    def divided(self, share: float, *, seed: int) -> tuple[Split, Split]:
        rows = np.arange(len(self))
        drawn, rest = (SomeRows(self, part.of(rows)) for part in parts(share, seed))
        return drawn, rest


@dataclass(frozen=True, eq=False)
class SomeRows(HeldSplit):
    """Some rows of a split in memory, which they share."""

    whole: HeldSplit
    rows: Rows

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, rows: Rows) -> Batch:
        return self.whole.take(self.rows[rows])
