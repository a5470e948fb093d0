"""Cores of a host that are kept for measurements, and the others."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from manynet.devices.errors import DeviceError

THREADS = Path("/proc/self/task")


def kept(count: int) -> set[int]:
    """The ``count`` cores of this host that are kept for measurements.

    Raises:
        DeviceError: if none would be left for anything else, or this system lets no process choose its cores.
    """
    if not hasattr(os, "sched_getaffinity"):
        raise DeviceError("cores can be kept for measurements on Linux alone, but got another system")
    every = _every()
    if count >= len(every):
        raise DeviceError(
            f"cores kept for measurements must leave one for evaluators, but got {count} of {len(every)}"
        )
    return set(every[-count:])


def run_on(cores: set[int]) -> None:
    """Keep this process, with all its threads, on ``cores``."""
    # A thread inherits its maker's cores only when it is made: those that run already are told one by one.
    for thread in [int(entry.name) for entry in THREADS.iterdir()]:
        os.sched_setaffinity(thread, cores)


@contextmanager
def beside(count: int) -> Iterator[None]:
    """Work on the cores that are not kept: this process stays on them from the first time on."""
    rest = set(_every()) - kept(count)
    if os.sched_getaffinity(0) != rest:
        run_on(rest)
    yield


def _every() -> list[int]:
    # Those of the first process: this one's own may have been narrowed before.
    return sorted(os.sched_getaffinity(os.getppid()))
