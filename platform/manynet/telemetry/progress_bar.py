"""How many of a known number of things are done: a bar on a terminal, a log line for every tenth elsewhere."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

logger = logging.getLogger(__name__)


@contextmanager
def counted(step: str, console: Console | None = None) -> Iterator[Callable[[int, int], None]]:
    """Show progress while inside; what is yielded is told how many are done, of how many.

    Args:
        step: what is being done.
        console: where the bar is drawn; standard error by default.
    """
    console = console or Console(stderr=True)
    columns = (TextColumn(step), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    tenths = 0

    def told(done: int, total: int) -> None:
        nonlocal tenths
        bar.update(task, completed=done, total=total)
        before, tenths = tenths, 10 * done // max(1, total)
        if tenths > before and not console.is_terminal:
            logger.info("%s: %d of %d", step, done, total)

    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None)
        yield told
