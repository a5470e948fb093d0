"""Time a run: warm up, then repeat until the calmest of the repeats agree, or say that they do not."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from time import perf_counter

import numpy

TOLERANCE = 0.05
WARM_UP_SECONDS = 0.3
WARM_UP_SAMPLES = 20
SAMPLE_SECONDS = 2e-3
WINDOW_SAMPLES = 5
WINDOW_SECONDS = (0.02, 0.1)
CALM_WINDOWS = 3
AGREEMENT = 0.01
LEAST_SECONDS = 0.3
MOST_SECONDS = 2.0
FEWEST_SAMPLES = 5
_share: ContextVar[float] = ContextVar("share", default=1.0)


@dataclass(frozen=True)
class Timing:
    """Median ms of the calmest runs, their spread (interquartile range over median), how many, and whether steady."""

    milliseconds: float
    spread: float
    count: int
    steady: bool


@contextmanager
def hastily(share: float) -> Iterator[None]:
    """Warm up and measure for a share of the usual time: enough to check a tool, not to record a latency."""
    token = _share.set(share)
    try:
        yield
    finally:
        _share.reset(token)


def time_run(run: Callable[[], None]) -> Timing:
    """Warm ``run`` up, then time it by the clock; see :func:`calmest`."""
    group = warm_group(run)
    return calmest(lambda: sample(run, group))


def calmest(take: Callable[[], float]) -> Timing:
    """Take samples, in seconds, for a third of a second to two seconds; those of the fastest three windows count.

    Whatever else a machine does only adds time, and mostly for seconds, not for single runs: a median over all samples
    differed by 5 % (in one of ten cases 22 %) from one measurement to the next on a shared machine, and one over the
    calmest windows by 3 % (7 %). It ends when the medians of these windows agree to a hundredth.
    """
    windows: list[tuple[float, list[float]]] = []
    start = perf_counter()
    while True:
        window = _window(take)
        bisect.insort(windows, (float(numpy.median(window)), window))
        calm = windows[:CALM_WINDOWS]
        timing = summarise([one for _, window in calm for one in window])
        spent = (perf_counter() - start) / _share.get()
        enough = timing.count >= FEWEST_SAMPLES or len(windows) >= FEWEST_SAMPLES
        agree = len(calm) == CALM_WINDOWS and calm[-1][0] <= (1 + AGREEMENT) * calm[0][0]
        if enough and (spent >= MOST_SECONDS or spent >= LEAST_SECONDS and timing.steady and agree):
            return timing


def warm_group(run: Callable[[], None]) -> int:
    """Warm ``run`` up; runs a sample: more than one of what is fast against the clock and the loop around it."""
    return max(1, math.ceil(SAMPLE_SECONDS / warm_up(run)))


def warm_up(run: Callable[[], None]) -> float:
    """Run until two windows of runs in a row agree, or the limit passes; return seconds of one run.

    Windows double in length, so that two neighbouring windows of a fast run are not both mere start-up.
    """
    run()
    runs, spent = 1, 0.0
    last = sample(run, runs)
    while spent < WARM_UP_SECONDS * _share.get():
        runs *= 2
        now = sample(run, runs)
        spent += now * runs
        if abs(now - last) <= TOLERANCE * last and spent >= WARM_UP_SAMPLES * SAMPLE_SECONDS:
            return now
        last = now
    return last


def sample(run: Callable[[], None], group: int) -> float:
    """Seconds of one run, averaged over ``group`` runs."""
    start = perf_counter()
    for _ in range(group):
        run()
    return max((perf_counter() - start) / group, 1e-9)


def summarise(samples: list[float]) -> Timing:
    """Median, spread and steadiness of samples in seconds."""
    low, median, high = numpy.percentile(samples, [25, 50, 75])
    spread = float((high - low) / median)
    return Timing(float(median) * 1e3, spread, len(samples), spread <= TOLERANCE)


def _window(take: Callable[[], float]) -> list[float]:
    """A few samples in a row: fewer of a slow run, more of a fast one."""
    shortest, longest = WINDOW_SECONDS
    samples: list[float] = []
    start = perf_counter()
    while True:
        samples.append(take())
        spent = perf_counter() - start
        if spent >= longest or spent >= shortest and len(samples) >= WINDOW_SAMPLES:
            return samples
