"""Progress bar, drawn on a terminal; log lines elsewhere."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

logger = logging.getLogger(__name__)


class ProgressBar:
    """Context manager that draws on a terminal, and nothing elsewhere.

    Args:
        title: name of the step.
        total: amount in all; None while unknown.
        done: initial amount done.
        status: initial text beside the bar.
        bytes_read: the amounts are bytes.
        transient: the bar is erased at the end.
        console: where the bar is drawn; standard error by default.
    """

    def __init__(
        self,
        title: str,
        total: int | None = None,
        *,
        done: int = 0,
        status: str = "",
        bytes_read: bool = False,
        transient: bool = False,
        console: Console | None = None,
    ) -> None:
        console = console or Console(stderr=True)
        self.on_terminal = console.is_terminal
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn() if bytes_read else MofNCompleteColumn(),
            TextColumn("{task.fields[status]}", markup=False),
            TimeRemainingColumn(),
            console=console,
            transient=transient,
            disable=not self.on_terminal,
        )
        self._task = self._bar.add_task(title, total=total, completed=done, status=status)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def update(self, done: int, total: int | None = None, status: str | None = None) -> None:
        """Show the amount done; ``total`` and ``status`` are unchanged if None."""
        fields: dict[str, Any] = {} if status is None else {"status": status}
        self._bar.update(self._task, completed=done, total=total, **fields)


@contextmanager
def logged_bar(step: str, console: Console | None = None) -> Iterator[Callable[[int, int], None]]:
    """Progress bar that logs a line for every tenth where there is no terminal.

    Args:
        step: its title.
        console: where the bar is drawn; standard error by default.

    Yields:
        A callback that takes the amount done and in all.
    """
    tenths = 0

    def update(done: int, total: int) -> None:
        nonlocal tenths
        bar.update(done, total)
        before, tenths = tenths, 10 * done // max(1, total)
        if tenths > before and not bar.on_terminal:
            logger.info("%s: %d of %d", step, done, total)

    with ProgressBar(step, console=console) as bar:
        yield update


@contextmanager
def reading_bar(title: str, size: int) -> Iterator[Callable[[int], None]]:
    """Progress bar of a file that is read; erased at the end.

    Args:
        title: what is read.
        size: bytes in all.

    Yields:
        A callback that takes the bytes read so far.
    """
    with ProgressBar(title, size, bytes_read=True, transient=True) as bar:
        yield bar.update
