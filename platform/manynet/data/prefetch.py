"""Prefetches items of an iterator in a background thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def prefetched(items: Iterator[T], ahead: int) -> Iterator[T]:
    """The same items, produced by a thread at most `ahead` items in advance.

    The thread ends with the items, with an error (which is raised here), and when this iterator is closed
    or dropped.
    """
    thread = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
    pending: deque[Future[T | None]] = deque(thread.submit(next, items, None) for _ in range(ahead))
    try:
        while (item := pending.popleft().result()) is not None:
            pending.append(thread.submit(next, items, None))
            yield item
    finally:
        thread.shutdown(cancel_futures=True)
