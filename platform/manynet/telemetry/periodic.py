"""Periodic task of an asynchronous actor."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress


class Periodic:
    """Starts to call ``work`` periodically in the running event loop.

    Args:
        work: returns the seconds to pause before the next call; an error ends the calls.
    """

    def __init__(self, work: Callable[[], Awaitable[float]]) -> None:
        self._stop = asyncio.Event()
        self._task = asyncio.get_event_loop().create_task(self._repeat(work))

    async def end(self) -> None:
        """Stop after the call in progress, and wait for it."""
        # Not cancelled: its thread would continue, and could overwrite newer content with older.
        self._stop.set()
        await asyncio.wait([self._task])

    async def _repeat(self, work: Callable[[], Awaitable[float]]) -> None:
        while not self._stop.is_set():
            pause = await work()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), pause)
