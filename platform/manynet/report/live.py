"""Refreshes a report while a step runs."""

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
"""Upper bound of the share of time spent on writing: the report of a long search takes seconds."""


@contextmanager
def refreshed(write: Callable[[], object], seconds: float) -> Iterator[None]:
    """Call ``write`` every ``seconds`` in a thread, until the block ends.

    A failed write is logged once, and does not stop the run: the final report will raise the error.
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
