"""What a candidate costs besides its evaluation: wall time each, less half of it with two evaluators.

The evaluation is a 50 ms sleep through the real search: NSGA-II, one Ray Tune trial a candidate, one Parquet
record each. The floor is a bare pool of two actors doing the same sleeps, measured in the same run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zlib import crc32

import ray
from ray.util import ActorPool
from rich.console import Console
from rich.table import Table

from manynet.config.settings import SearchSettings
from manynet.records.ledger import Ledger
from manynet.references import load
from manynet.search.evaluator import Evaluation, Provenance
from manynet.search.runs import run

SECONDS = 0.05
EVALUATORS = 2
BAR_MS = 30.0
FLOOR_MS = 1.0


def prepare() -> Callable[[Any], Evaluation]:
    """An evaluation that takes ``SECONDS``, and says when it ended."""

    def evaluate(arch: Any) -> Evaluation:
        time.sleep(SECONDS)
        # Both change with every choice, and disagree: a front, not one optimum that is proposed for ever.
        merit, price = (sum(crc32(f"{name}{item}".encode()) % 97 for item in arch.items()) for name in "ap")
        return Evaluation({"accuracy": merit / 1e4, "macs": float(price), "ended": time.time()})

    return evaluate


def overhead_ms(ended: list[float], warm_up: int) -> float:
    """Milliseconds a candidate after the warm-up, less its share of the evaluation."""
    ended = sorted(ended)[warm_up:]
    return 1e3 * ((ended[-1] - ended[0]) / (len(ended) - 1) - SECONDS / EVALUATORS)


def search_overhead(space: Any, candidates: int, warm_up: int) -> float:
    """Overhead of the real search, in ms."""
    settings = SearchSettings(
        objectives=["accuracy:max", "macs:min"], evaluations=candidates + warm_up, evaluators=EVALUATORS
    )
    provenance = Provenance(space.digest, "none", "none", "sleep")
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(Path(folder) / "ledger")
        records = run(space, settings, ledger, prepare, provenance, folder)
    assert len(records) == candidates + warm_up
    return overhead_ms([record.metrics["ended"] for record in records], warm_up)


class Sleeper:
    """The floor's evaluator."""

    @ray.method
    def evaluate(self, _: int) -> float:
        """Sleep, and say when it ended."""
        time.sleep(SECONDS)
        return time.time()


def pool_overhead(candidates: int, warm_up: int) -> float:
    """Overhead of a bare actor pool, in ms."""
    sleepers: list[Any] = [ray.remote(Sleeper).remote() for _ in range(EVALUATORS)]
    pool = ActorPool(sleepers)
    numbers: list[Any] = list(range(candidates + warm_up))
    ended = list(pool.map_unordered(lambda sleeper, number: sleeper.evaluate.remote(number), numbers))
    for sleeper in sleepers:
        ray.kill(sleeper)
    return overhead_ms(ended, warm_up)


def main() -> None:
    """Measure, print a table, and end with one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--space", default="search_spaces.vit:tiny")
    parser.add_argument("--candidates", type=int, default=300)
    parser.add_argument("--warm-up", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=1)
    options = parser.parse_args()
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    space = load(options.space)
    searches, pools = [], []
    for _ in range(options.repeats):
        pools.append(pool_overhead(options.candidates, options.warm_up))
        searches.append(search_overhead(space, options.candidates, options.warm_up))
    ray.shutdown()
    figures = {"search_ms": statistics.median(searches), "pool_ms": statistics.median(pools)}
    report(figures, options)


def report(figures: dict[str, float], options: argparse.Namespace) -> None:
    """The table for people, the last line for programs."""
    table = Table("", "ms a candidate", "bar", title=f"{options.candidates} candidates, {options.space}")
    table.add_row("search, less the evaluation", f"{figures['search_ms']:.1f}", f"<= {BAR_MS:g}")
    table.add_row("bare actor pool (floor)", f"{figures['pool_ms']:.1f}", f"about {FLOOR_MS:g}")
    Console().print(table)
    passed = figures["search_ms"] <= BAR_MS
    rounded = {name: round(value, 2) for name, value in figures.items()}
    line = {
        "benchmark": "search_overhead",
        "figures": rounded,
        "bars": {"search_ms": BAR_MS},
        "pass": passed,
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
