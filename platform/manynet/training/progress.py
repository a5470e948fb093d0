"""Shows how far training is, from the progress file that the first worker writes."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from rich.console import Console

from manynet.storage import StorageError, read_json
from manynet.telemetry.progress_bar import ProgressBar

logger = logging.getLogger(__name__)
Show = Callable[[Mapping[str, Any]], None]
_SECONDS_BETWEEN = 1.0
_SECONDS_BETWEEN_LINES = 15.0


@contextmanager
def training_bar(address: str, console: Console | None = None) -> Iterator[None]:
    """Show the progress file at ``address`` until the block ends: a bar on a terminal, elsewhere log lines.

    Above it, each architecture that a search by training would choose.

    A thread reads it, so that the main thread can wait for Ray and still hear Ctrl-C.
    """
    with ProgressBar("train", status="starting workers", console=console) as bar:
        show, seconds = (_drawn(bar), _SECONDS_BETWEEN) if bar.on_terminal else (_log, _SECONDS_BETWEEN_LINES)
        ended = threading.Event()
        follower = threading.Thread(target=_follow, args=(address, show, ended, seconds), daemon=True)
        follower.start()
        try:
            yield
        finally:
            ended.set()
            follower.join()


def _follow(address: str, show: Show, ended: threading.Event, seconds: float) -> None:
    last = None
    with suppress(StorageError):
        last = read_json(address)
    found = ""
    while not ended.wait(seconds):
        try:
            content = read_json(address)
        except StorageError:
            # Who writes there tells of it.
            continue
        # An earlier start's last word is no progress of this one.
        if content is not None and content != last:
            if content["found"] != found:
                found = content["found"]
                logger.info("train: found so far: %s", found)
            show(content)
            last = content


def _drawn(bar: ProgressBar) -> Show:
    return lambda content: bar.update(content["step"], content["steps"], status(content))


def _log(content: Mapping[str, Any]) -> None:
    logger.info("train: step %d of %d, %s", content["step"], content["steps"], status(content))


def status(content: Mapping[str, Any]) -> str:
    """One line about the values in a progress file."""
    parts = [f"{content['job']} ({content['number'] + 1}/{content['jobs']})"] if content["jobs"] > 1 else []
    parts += _figures(content["logged"])
    metric = content["metric"]
    form = ".1%" if metric == "accuracy" else ".4f"
    parts += [
        f"{name.removesuffix(f'/{metric}')} {value:{form}}" for name, value in content["scores"].items()
    ]
    return ", ".join(parts)


def _figures(logged: Mapping[str, float]) -> list[str]:
    """A part for each value; those of one prefix, such as ``open/``, are one: a network has many blocks."""
    groups: dict[str, dict[str, float]] = {}
    for name, value in logged.items():
        groups.setdefault(name.partition("/")[0], {})[name] = value
    parts = []
    for prefix, values in groups.items():
        if len(values) > 1:
            parts.append(f"{prefix} {_figure(min(values.values()))} to {_figure(max(values.values()))}")
        else:
            parts += [f"{name} {_figure(value)}" for name, value in values.items()]
    return parts


def _figure(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    # What is not 0 must not look as if it were.
    return f"{value:.3f}" if value == 0 or abs(value) >= 0.0005 else f"{value:.0e}"
