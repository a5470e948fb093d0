"""Progress bar of a long read, drawn by the caller."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

ReadingBar = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""Opens a progress bar, given its title and the bytes in all; yields a callback that takes the bytes read so far."""


def no_bar(title: str, size: int) -> AbstractContextManager[Callable[[int], None]]:
    """Draws nothing."""
    return nullcontext(lambda done: None)
