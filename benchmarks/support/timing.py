"""Clocks, and runs that take turns so that both sides meet the same machine."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import torch

Name = TypeVar("Name")
Work = Callable[[], object]
Clock = Callable[[], float]
SIDE = 1024


def cpu_seconds(work: Work) -> float:
    """CPU seconds of one call, over all threads of this process."""
    start = time.process_time()
    work()
    return time.process_time() - start


def clock_of(device: torch.device) -> Clock:
    """CPU seconds of this process; on a GPU wall seconds, once its queue is empty."""
    if device.type != "cuda":
        return time.process_time

    def synchronised() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return synchronised


def in_turns(
    works: Mapping[Name, Work], rounds: int, warm_up: int = 1, clock: Clock = time.process_time
) -> dict[Name, list[float]]:
    """Seconds of each work in each round, after some rounds that do not count."""
    seconds: dict[Name, list[float]] = {name: [] for name in works}
    for number in range(warm_up + rounds):
        for name, work in works.items():
            start = clock()
            work()
            if number >= warm_up:
                seconds[name].append(clock() - start)
    return seconds


def median_ratio(
    one: Work, other: Work, rounds: int, warm_up: int = 1, clock: Clock = time.process_time
) -> float:
    """Median seconds of one work over those of another."""
    taken = in_turns({0: one, 1: other}, rounds, warm_up, clock)
    return statistics.median(taken[0]) / statistics.median(taken[1])


def matmul_seconds(times: int = 10) -> float:
    """Median CPU seconds of a 1024 x 1024 float32 matrix product: how fast this machine is."""
    first, second = torch.randn(SIDE, SIDE), torch.randn(SIDE, SIDE)
    return statistics.median(cpu_seconds(lambda: first @ second) for _ in range(times))


def process_seconds() -> dict[int, float]:
    """CPU seconds of this process and of all its descendants, by process id (Linux)."""
    parents: dict[int, int] = {}
    seconds: dict[int, float] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # It ended meanwhile.
            parents[int(entry.name)] = int(fields[1])
            seconds[int(entry.name)] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return {process: spent for process, spent in seconds.items() if _is_ours(process, parents)}


def _is_ours(process: int, parents: Mapping[int, int]) -> bool:
    while process not in (os.getpid(), 0):
        process = parents.get(process, 0)
    return process != 0


def seconds_since(before: Mapping[int, float]) -> float:
    """CPU seconds of all processes since an earlier reading; what has ended since is left out."""
    return sum(seconds - before.get(process, 0.0) for process, seconds in process_seconds().items())
