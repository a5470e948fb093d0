"""What a process does with memory that it has freed."""

from __future__ import annotations

import ctypes
import ctypes.util

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_NEVER = 2**31 - 1


def keep_freed_memory() -> None:
    """Let the C library keep what is freed, for the next batch; nothing, where it is not glibc.

    Activations are freed and asked for again at every batch. By default glibc gives large blocks back to the
    system each time, and having fresh pages cleared costs a third of the time of small networks on a CPU.
    For processes that do nothing but run networks.
    """
    found = ctypes.util.find_library("c")
    mallopt = getattr(ctypes.CDLL(found), "mallopt", None) if found else None
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, 2**30)
        mallopt(_TRIM_THRESHOLD, _NEVER)
