"""Progress bar of training, from the progress file that the first worker writes."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from rich.console import Console

from manynet.storage import StorageError
from manynet.telemetry import training_status
from manynet.telemetry.progress_bar import ProgressBar
from manynet.telemetry.training_status import TrainingStatus

logger = logging.getLogger(__name__)
Show = Callable[[TrainingStatus], None]
_SECONDS_BETWEEN = 1.0
_SECONDS_BETWEEN_LINES = 15.0


@contextmanager
def training_bar(address: str, console: Console | None = None) -> Iterator[None]:
    """Show the progress file at ``address`` until the block ends: a bar on a terminal, elsewhere log lines.

    Above it stand the architectures that a search by training would choose.

    A thread reads the file, so that the main thread can wait for Ray and still receive Ctrl-C.
    """
    with ProgressBar("train", status="starting workers", console=console) as bar:
        show, seconds = (
            (_bar_updates(bar), _SECONDS_BETWEEN) if bar.on_terminal else (_log, _SECONDS_BETWEEN_LINES)
        )
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
        last = training_status.read(address)
    architecture = ""
    while not ended.wait(seconds):
        try:
            content = training_status.read(address)
        except StorageError:
            # The writer reports such errors.
            continue
        # The last status of an earlier start is not progress of this one.
        if content is not None and content != last:
            if content["found"] != architecture:
                architecture = content["found"]
                logger.info("train: found so far: %s", architecture)
            show(content)
            last = content


def _bar_updates(bar: ProgressBar) -> Show:
    return lambda content: bar.update(content["step"], content["steps"], training_status.line(content))


def _log(content: TrainingStatus) -> None:
    logger.info("train: step %d of %d, %s", content["step"], content["steps"], training_status.line(content))
