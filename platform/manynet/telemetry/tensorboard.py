"""TensorBoard events in a folder of any filesystem."""

from __future__ import annotations

import io
import os
import socket
import time
from pathlib import Path
from typing import Any

from manynet.storage import is_local, join, locate, write_bytes, writing

_SECONDS_BETWEEN = 15.0
_PART = 2**20


class Events:
    """Writes scalars and texts over steps to a new event file in a folder.

    PyTorch's ``SummaryWriter`` supports local folders only, and writes in a thread, where errors become tracebacks.
    Object stores cannot append: there each flush rewrites the file, and a new file starts after every MiB, so that
    the cost of a flush is bounded. TensorBoard reads all of a folder's files as one.

    Args:
        address: of the folder; created.
        purge_step: hides values of earlier files at this step and later ones, which a run wrote between its
            last checkpoint and its interruption.

    Raises:
        StorageError: when the folder cannot be written; all methods raise it.
    """

    def __init__(self, address: str | Path, purge_step: int | None = None) -> None:
        # Slow to import, and many processes write no events.
        from tensorboard.compat.proto import event_pb2, summary_pb2  # type: ignore[import-untyped]
        from tensorboard.plugins.text.summary_v2 import text_pb  # type: ignore[import-untyped]

        # Not PyTorch's functions, which return the same: a search's monitor needs no PyTorch otherwise.
        self._event, self._summary, self._text = event_pb2, summary_pb2.Summary, text_pb
        self._folder, self._local = str(address), is_local(address)
        self._flushed = time.monotonic()
        self._begin()
        if purge_step is not None:
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._write(step=purge_step, session_log=start)

    def scalar(self, name: str, value: float, step: int) -> None:
        """Add a point to the curve ``name``."""
        point = self._summary.Value(tag=name, simple_value=value)
        self._write(step=step, summary=self._summary(value=[point]))

    def text(self, name: str, text: str, step: int) -> None:
        """Add a text."""
        self._write(step=step, summary=self._text(f"{name}/text_summary", text))

    def flush(self, now: bool = False) -> None:
        """Write buffered events; on an object store at most every 15 s, unless ``now``."""
        if self._local:
            with writing(self._address):
                self._file.flush()
        elif now or time.monotonic() - self._flushed > _SECONDS_BETWEEN:
            self._flushed = time.monotonic()
            content = self._file.getvalue()
            write_bytes(self._address, content)
            if len(content) > _PART:
                self._begin()

    def close(self) -> None:
        """Flush and close the file."""
        try:
            self.flush(now=True)
        finally:
            with writing(self._address):
                self._file.close()

    def _begin(self) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]

        # Unique, and sorted by time, the order in which TensorBoard reads them.
        suffix = f"{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        self._address = join(self._folder, f"events.out.tfevents.{suffix}")
        with writing(self._address):
            self._file: Any = self._create_file() if self._local else io.BytesIO()
        self._records = RecordWriter(self._file)
        self._write(file_version="brain.Event:2")

    def _create_file(self) -> io.BufferedWriter:
        path = Path(locate(self._address)[1])
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("xb")

    def _write(self, **fields: Any) -> None:
        event = self._event.Event(wall_time=time.time(), **fields)
        with writing(self._address):
            self._records.write(event.SerializeToString())
