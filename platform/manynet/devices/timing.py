"""Time a run: warm up, then repeat until the spread is small or say that it is not."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

import numpy

TOLERANCE = 0.05
ROUNDS = 3
ROUND_SECONDS = 0.5
WARM_UP_SECONDS = 0.3
SAMPLES = 20
FEWEST_SAMPLES = 5
SAMPLE_SECONDS = 2e-4


@dataclass(frozen=True)
class Timing:
    """Median ms of one run, its spread (interquartile range over median), samples, and whether it is steady."""

    milliseconds: float
    spread: float
    count: int
    steady: bool


def time_run(run: Callable[[], None]) -> Timing:
    """Warm ``run`` up, then time it by the clock; see :func:`steadiest`."""
    group = warm_group(run)
    return steadiest(lambda: sample(run, group))


def steadiest(take: Callable[[], float]) -> Timing:
    """Take samples, in seconds, in up to three rounds of half a second; the steadiest round counts.

    A round starts afresh, so a disturbance in one does not widen the next.
    """
    best = _round(take)
    for _ in range(ROUNDS - 1):
        if best.steady:
            break
        best = min(best, _round(take), key=lambda timing: timing.spread)
    return best


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
    while spent < WARM_UP_SECONDS:
        runs *= 2
        now = sample(run, runs)
        spent += now * runs
        if abs(now - last) <= TOLERANCE * last and spent >= SAMPLES * SAMPLE_SECONDS:
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


def _round(take: Callable[[], float]) -> Timing:
    samples: list[float] = []
    start = perf_counter()
    while True:
        samples.append(take())
        late = perf_counter() - start > ROUND_SECONDS
        if len(samples) >= FEWEST_SAMPLES and late:
            return summarise(samples)
        if len(samples) % SAMPLES == 0 and (timing := summarise(samples)).steady:
            return timing
