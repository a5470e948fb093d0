"""Lets a search's evaluators start together."""

from __future__ import annotations

import asyncio


class Gate:
    """Barrier: evaluators start together once all of them are up.

    Tune gives a trial whose evaluator is still starting to any idle evaluator, and then drops the
    starting one. Without the barrier, the first evaluator would run all quick candidates alone.
    """

    def __init__(self, count: int) -> None:
        self._missing = count
        self._complete = asyncio.Event()

    async def arrive(self) -> None:
        """Return once ``count`` evaluators have called this."""
        self._missing -= 1
        if self._missing <= 0:
            self._complete.set()
        await self._complete.wait()
