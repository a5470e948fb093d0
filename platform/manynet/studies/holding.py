"""One process at a time goes on with a study. Another is told who holds it; a holder that died frees it."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, ValidationError

from manynet.storage import (
    StorageError,
    check_writable,
    exists,
    is_local,
    join,
    read_bytes,
    remove,
    write_bytes,
)
from manynet.studies.on_record import StudyError

HOLDER, LOCK = "holder.json", ".lock"
SECONDS_BETWEEN = 3.0
"""How often a holder shows that it lives, where a folder's filesystem has no locks."""
SECONDS_SILENT = 10.0
"""A holder that shows nothing for so long is taken to be dead."""
P = ParamSpec("P")
R = TypeVar("R")
logger = logging.getLogger(__name__)
_held: ContextVar[frozenset[str]] = ContextVar("held", default=frozenset())


class InFolder(Protocol):
    """A study of any kind."""

    folder: str


S = TypeVar("S", bound=InFolder)


class Holder(BaseModel):
    """A process that goes on with a study.

    Attributes:
        process: its number.
        host: name of its machine.
        place: tells machines, their starts and containers apart: where its number means this process.
        since: time at which it took the study.
        token: of this holding alone.
        beats: how often it has shown that it lives.
    """

    model_config = ConfigDict(frozen=True)

    process: int
    host: str
    place: str
    since: str
    token: str
    beats: int = 0

    @classmethod
    def this(cls) -> Holder:
        """This process."""
        return cls(
            process=os.getpid(),
            host=socket.gethostname(),
            place=_place(),
            since=datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
            token=uuid.uuid4().hex,
        )

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}, since {self.since}"


def exclusive(
    step: Callable[Concatenate[S, P], R],
) -> Callable[Concatenate[S, P], R]:
    """Hold the study while a method runs.

    Raises:
        StudyError: another process holds it.
    """

    @wraps(step)
    def held_step(study: S, /, *arguments: P.args, **options: P.kwargs) -> R:
        with held(study.folder):
            return step(study, *arguments, **options)

    return held_step


@contextmanager
def held(folder: str) -> Iterator[None]:
    """Inside, no other process goes on with the study in ``folder``; blocks of one study may be nested.

    Raises:
        StudyError: another process holds it.
        StorageError: the folder cannot be written.
    """
    if folder in _held.get():
        yield
        return
    with _locked(folder) if is_local(folder) else _claimed(folder):
        token = _held.set(_held.get() | {folder})
        try:
            yield
        finally:
            _held.reset(token)


@contextmanager
def _locked(folder: str) -> Iterator[None]:
    """By a lock of the operating system, which frees it with the process."""
    lock = FileLock(Path(folder) / LOCK, timeout=0)
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise _in_use(folder, _holder(folder)) from None
    except OSError:
        # Where nothing can be written, nothing goes on: what has to write says so, and what is done is done.
        yield
        return
    try:
        with suppress(StorageError):
            _claim(folder, Holder.this())
        yield
    finally:
        _clean(Path(folder))
        lock.release()


def _clean(folder: Path) -> None:
    """Leave no name of a holder, and no folder where a study was refused before it began."""
    with suppress(OSError):
        (folder / HOLDER).unlink(missing_ok=True)
        if [path.name for path in folder.iterdir()] == [LOCK]:
            (folder / LOCK).unlink()
            folder.rmdir()


@contextmanager
def _claimed(folder: str) -> Iterator[None]:
    """By a file that the holder keeps writing: object stores have no locks."""
    other = _holder(folder)
    if other is not None and _lives(folder, other):
        raise _in_use(folder, other)
    check_writable(folder)
    own, stop = Holder.this(), threading.Event()
    _claim(folder, own)
    # Of two that claim at once, the one that wrote last has it.
    stop.wait(SECONDS_BETWEEN / 3)
    other = _holder(folder)
    if other is not None and other.token != own.token:
        raise _in_use(folder, other)
    beating = threading.Thread(target=_beat, args=(folder, own, stop), daemon=True)
    beating.start()
    try:
        yield
    finally:
        stop.set()
        beating.join()
        remove(join(folder, HOLDER))


def _beat(folder: str, own: Holder, stop: threading.Event) -> None:
    beats = 0
    while not stop.wait(SECONDS_BETWEEN):
        beats += 1
        try:
            _claim(folder, own.model_copy(update={"beats": beats}))
        except StorageError as error:
            logger.warning("%s cannot be shown to be held: %s", folder, error)


def _claim(folder: str, holder: Holder) -> None:
    write_bytes(join(folder, HOLDER), holder.model_dump_json().encode())


def _holder(folder: str) -> Holder | None:
    """Who holds a study, or held it last."""
    address = join(folder, HOLDER)
    try:
        return Holder.model_validate_json(read_bytes(address)) if exists(address) else None
    except ValidationError:
        return None


def _lives(folder: str, holder: Holder) -> bool:
    """Whether a holder of a folder without locks still runs."""
    if holder.place == _place() and not _runs(holder.process):
        return False
    logger.info("%s was held by %s: looking whether it still is", folder, holder)
    deadline = time.monotonic() + SECONDS_SILENT
    while time.monotonic() < deadline:
        time.sleep(SECONDS_BETWEEN / 3)
        if (now := _holder(folder)) != holder:
            return now is not None
    return False


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _in_use(folder: str, holder: Holder | None) -> StudyError:
    by = str(holder) if holder is not None else "another process"
    return StudyError(
        f"{folder} must be free, but {by}, is at work on it; wait for it, or use another folder"
    )


def _place() -> str:
    """The machine, its start, and the container, as far as they can be told."""
    parts = [socket.gethostname(), str(uuid.getnode())]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(parts)
