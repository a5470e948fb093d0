"""Making things in a background thread before they are asked for."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def prefetched(items: Iterator[T], ahead: int) -> Iterator[T]:
    """The same items, made by a thread that is at most `ahead` of them before its reader.

    The thread ends when the items do, when making one raises (which is raised here), and when this iterator
    is closed or dropped.
    """
    thread = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
    waiting: deque[Future[T | None]] = deque(thread.submit(next, items, None) for _ in range(ahead))
    try:
        while (item := waiting.popleft().result()) is not None:
            waiting.append(thread.submit(next, items, None))
            yield item
    finally:
        thread.shutdown(cancel_futures=True)
