"""The lease of a host: its evaluators share it, one measurement at a time has it alone.

Two locked files are enough, and better than a lock kept by an actor: a shared lease costs microseconds, all
Ray sessions and jobs of a host respect one lease, and the kernel frees what a killed holder held.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from manynet.devices.errors import MeasurementError

WAIT_SECONDS = 600.0
POLL_SECONDS = 0.001


@dataclass(frozen=True)
class Lease:
    """The right to use this host's processor, shared or alone. Picklable: it means the host it is used on.

    A measurement that waits holds the turnstile, so no new shared holder gets in before it. Never ask for the
    exclusive lease, or for a measurement, while holding the shared one: it would wait for itself.

    Attributes:
        folder: where the two lock files are; all that share a lease share it. It must be on a local disk.
        wait_seconds: how long a measurement waits for the shared holders, s.
    """

    folder: Path = field(default_factory=lambda: Path(tempfile.gettempdir()))
    wait_seconds: float = WAIT_SECONDS

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Hold the lease together with other shared holders."""
        with self._locked("turnstile", fcntl.LOCK_SH):
            inside = self._lock("inside", fcntl.LOCK_SH)
        try:
            yield
        finally:
            _unlock(inside)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the lease alone.

        Raises:
            MeasurementError: if a shared holder stays longer than ``wait_seconds``.
        """
        with self._locked("turnstile", fcntl.LOCK_EX):
            inside = self._wait_until_empty()
            try:
                yield
            finally:
                _unlock(inside)

    def _wait_until_empty(self) -> int:
        deadline = time.monotonic() + self.wait_seconds
        while True:
            try:
                return self._lock("inside", fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise MeasurementError(
                        f"evaluators must give up the host within {self.wait_seconds:g} s for a measurement, "
                        "but got one that holds it longer"
                    ) from None
            time.sleep(POLL_SECONDS)

    @contextmanager
    def _locked(self, name: str, mode: int) -> Iterator[None]:
        descriptor = self._lock(name, mode)
        try:
            yield
        finally:
            _unlock(descriptor)

    def _lock(self, name: str, mode: int) -> int:
        # Every holder opens the file itself: the lock belongs to the open file, so threads exclude each other.
        descriptor = _open(self.folder / f"manynet-{name}.lock")
        try:
            fcntl.flock(descriptor, mode)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor


def _open(path: Path) -> int:
    # Reading is enough to lock, so another user of the host can share a file that this user made.
    try:
        return os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CREAT, 0o644)


def _unlock(descriptor: int) -> None:
    # Unlocked by word, not only by closing: a forked child may still have the file open.
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)
