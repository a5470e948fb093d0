"""Shows how far a long reading is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn


@contextmanager
def reading_bar(title: str, size: int) -> Iterator[Callable[[int], None]]:
    """A bar on standard error, if that is a terminal; what is yielded takes the bytes read so far.

    Args:
        title: what is read.
        size: bytes in all.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda done: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(title, total=size)
        yield lambda done: bar.update(task, completed=done)
