"""Shows how far training is, from the progress file that the first worker writes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from manynet.checkpoint import read_json

_SECONDS_BETWEEN = 1.0


@contextmanager
def training_bar(address: str, console: Console | None = None) -> Iterator[None]:
    """Show the progress file at ``address`` until the block ends; on a terminal only.

    A thread reads it, so that the main thread can wait for Ray and still hear Ctrl-C.
    """
    console = console or Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    columns = (
        TextColumn("train"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[status]}"),
        TimeRemainingColumn(),
    )
    ended = threading.Event()
    before = read_json(address)
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=None, status="starting workers")

        def follow() -> None:
            while not ended.wait(_SECONDS_BETWEEN):
                content = read_json(address)
                # An earlier start's last word is no progress of this one.
                if content is not None and content != before:
                    bar.update(
                        task, completed=content["step"], total=content["steps"], status=status(content)
                    )

        follower = threading.Thread(target=follow, daemon=True)
        follower.start()
        try:
            yield
        finally:
            ended.set()
            follower.join()


def status(content: dict[str, Any]) -> str:
    """One line about the values in a progress file."""
    parts = [f"{content['job']} ({content['number'] + 1}/{content['jobs']})"] if content["jobs"] > 1 else []
    if content["loss"] is not None:
        parts.append(f"loss {content['loss']:.3f}")
    parts += [
        f"{name.replace('/accuracy', '')} {v:.1%}" for name, v in content.items() if name.endswith("accuracy")
    ]
    return ", ".join(parts)
