"""What a candidate costs besides its evaluation: wall time each, less half of it with two evaluators.

The evaluation is a 50 ms sleep through the real search: NSGA-II, one Ray Tune trial a candidate, one Parquet
record each. The floor is a bare pool of two actors doing the same sleeps, measured in the same run.

    python benchmarks/search_overhead.py [--candidates 300]
"""

from __future__ import annotations

import statistics
import time
from argparse import Namespace
from collections.abc import Sequence
from typing import Any

import ray
from ray.util import ActorPool
from support.frame import Option, at_most, run, show
from support.processes import local_ray
from support.sleeping import asleep

from manynet.references import load

OPTIONS = (
    Option("--space", "search_spaces.vit:tiny"),
    Option("--candidates", 300, quick=8),
    Option("--warm-up", 20, "candidates that do not count", quick=2),
    Option("--seconds", 0.05, "of each evaluation"),
    Option("--evaluators", 2, quick=1),
    Option("--repeats", 1),
)
BARS = {"search_ms": at_most(30.0)}


def main(given: Namespace) -> dict[str, float]:
    """Measure pool and search in turns."""
    searches, pools = [], []
    with local_ray(2 * given.evaluators):
        for _ in range(given.repeats):
            pools.append(overhead_ms(pooled(given), given))
            searches.append(overhead_ms(searched(given), given))
    figures = {"search_ms": statistics.median(searches), "pool_ms": statistics.median(pools)}
    show(
        f"{given.candidates} candidates, {given.space}",
        ("", "ms a candidate"),
        [
            ("search, less the evaluation", f"{figures['search_ms']:.1f}"),
            ("bare actor pool (floor)", f"{figures['pool_ms']:.1f}"),
        ],
    )
    return figures


def overhead_ms(ended: Sequence[float], given: Namespace) -> float:
    """Milliseconds a candidate after the warm-up, less its share of the evaluation."""
    counted = sorted(ended)[given.warm_up :]
    each: float = given.seconds / given.evaluators
    return 1e3 * ((counted[-1] - counted[0]) / (len(counted) - 1) - each)


def searched(given: Namespace) -> list[float]:
    """When each candidate of the real search ended."""
    evaluations = given.candidates + given.warm_up
    records = asleep(load(given.space), given.seconds, evaluations, given.evaluators, "nsga2")
    return [record.metrics["ended"] for record in records]


class Sleeper:
    """The floor's evaluator."""

    @ray.method
    def evaluate(self, seconds: float) -> float:
        """Sleep, and say when it ended."""
        time.sleep(seconds)
        return time.time()


def pooled(given: Namespace) -> list[float]:
    """When each sleep of a bare actor pool ended."""
    sleepers: list[Any] = [ray.remote(Sleeper).remote() for _ in range(given.evaluators)]
    seconds: list[Any] = [given.seconds] * (given.candidates + given.warm_up)
    pool = ActorPool(sleepers)
    ended = list(pool.map_unordered(lambda sleeper, each: sleeper.evaluate.remote(each), seconds))
    for sleeper in sleepers:
        ray.kill(sleeper)
    return ended


if __name__ == "__main__":
    run(main, file=__file__, about=__doc__, options=OPTIONS, bars=BARS)
