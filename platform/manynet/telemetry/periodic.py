"""What an asynchronous actor does again and again, in threads that are waited for at the end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress


class Periodic:
    """Begins to call ``work`` again and again, in the running loop.

    Args:
        work: answers how many seconds to pause before the next call; an error that it raises is its last.
    """

    def __init__(self, work: Callable[[], Awaitable[float]]) -> None:
        self._over = asyncio.Event()
        self._task = asyncio.get_event_loop().create_task(self._repeat(work))

    async def end(self) -> None:
        """Begin no other call, and wait for the one that goes on."""
        # Not cancelled: a thread goes on then, and may write what is old over what is written next.
        self._over.set()
        await asyncio.wait([self._task])

    async def _repeat(self, work: Callable[[], Awaitable[float]]) -> None:
        while not self._over.is_set():
            pause = await work()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._over.wait(), pause)
