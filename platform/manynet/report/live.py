"""A report that is written again and again while a step runs."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from manynet.errors import ManynetError

logger = logging.getLogger(__name__)
SECONDS_BETWEEN = 30.0
SHARE_OF_TIME = 0.05
"""Of the run's time that writing may take: a long search's report takes seconds."""


@contextmanager
def refreshed(write: Callable[[], object], seconds: float) -> Iterator[None]:
    """Call ``write`` every ``seconds`` until the block ends, in a thread of its own.

    A report that cannot be written is told once and ends no run: the one at the end tells it again.
    """
    ended = threading.Event()
    thread = threading.Thread(target=_keep_writing, args=(write, ended, seconds), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _keep_writing(write: Callable[[], object], ended: threading.Event, seconds: float) -> None:
    pause = seconds
    while not ended.wait(pause):
        start = time.monotonic()
        try:
            write()
        except (ManynetError, OSError) as error:
            logger.warning("the report is not refreshed any more: %s", error)
            return
        pause = max(seconds, (time.monotonic() - start) / SHARE_OF_TIME)
