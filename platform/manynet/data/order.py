"""Order of training examples, independent of the number of workers and of the first step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import count

import numpy as np
from numpy.typing import NDArray

from manynet.data.base import DataError

Rows = NDArray[np.int64]


def check_share(size: int, start: int, rank: int, world: int) -> None:
    """Check that a joint batch can be shared evenly.

    Raises:
        DataError: see `Split.stream`.
    """
    if world < 1 or not 0 <= rank < world:
        raise DataError(f"rank must be in 0..world-1, but got rank {rank} of world {world}")
    if size < 1 or size % world:
        raise DataError(f"batch size must be a positive multiple of the {world} workers, but got {size}")
    if start < 0:
        raise DataError(f"start must be at least 0, but got {start}")


def check_batches(size: int, limit: int | None) -> None:
    """Check that sizes are at least one.

    Raises:
        DataError: see `Split.batches`.
    """
    if size < 1:
        raise DataError(f"batch size must be at least 1, but got {size}")
    if limit is not None and limit < 1:
        raise DataError(f"limit must be at least 1 example, but got {limit}")


def share(
    epoch: Callable[[int], Iterable[Rows]], length: int, *, size: int, start: int, rank: int, world: int
) -> Iterator[Rows]:
    """One worker's rows of an endless stream, in order.

    Args:
        epoch: yields the order of an epoch, in pieces of any length with `length` rows in all.
        length: rows in an epoch.
        size: rows in a joint batch.
        start: joint batches to skip.
        rank: which of `world` equal contiguous parts of a joint batch to keep.
        world: how many parts a joint batch has.
    """
    first = start * size
    for number in count(first // length):
        place = number * length
        for rows in epoch(number):
            places = np.arange(place, place + len(rows))
            place += len(rows)
            own = rows[(places >= first) & (places % size // (size // world) == rank)]
            if len(own):
                yield own


def first(order: Iterable[Rows], limit: int) -> Iterator[Rows]:
    """The first `limit` rows of an order."""
    for rows in order:
        if limit <= 0:
            return
        yield rows[:limit]
        limit -= len(rows)


def regroup(pieces: Iterable[tuple[NDArray[np.generic], ...]], size: int) -> Iterator[tuple[np.ndarray, ...]]:
    """Cut arrays that arrive in pieces of any length into pieces of `size`; the last may be shorter."""
    pending: list[tuple[np.ndarray, ...]] = []
    pending_rows = 0
    for piece in pieces:
        pending.append(piece)
        pending_rows += len(piece[0])
        if pending_rows < size:
            continue
        joined = tuple(np.concatenate(parts) for parts in zip(*pending, strict=True))
        whole = pending_rows - pending_rows % size
        for at in range(0, whole, size):
            yield tuple(part[at : at + size] for part in joined)
        pending = [tuple(part[whole:] for part in joined)]
        pending_rows -= whole
    if pending_rows:
        yield tuple(np.concatenate(parts) for parts in zip(*pending, strict=True))
