"""Two evaluators against one: candidates a second, real scoring, one thread each.

The same candidates (random sampler, same seed) are scored through the real search by one evaluator and by two, in
turns, with enough validation images that a candidate takes at least half a second.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any

import ray
from rich.console import Console
from rich.table import Table

from manynet import data
from manynet.config.settings import SearchSettings
from manynet.records.ledger import Ledger, Record
from manynet.references import load
from manynet.search.runs import search

BAR = 1.7
SHORTEST = 0.5


class Repeated(data.Split):
    """A split gone through several times over, so that a candidate takes long enough."""

    def __init__(self, split: data.Split, times: int) -> None:
        self.split, self.times = split, times

    def __len__(self) -> int:
        return len(self.split) * self.times

    def batches(self, size: int, limit: int | None = None) -> Any:
        """The split's batches, ``times`` times; ``limit`` bounds each time."""
        for _ in range(self.times):
            yield from self.split.batches(size, limit)

    def stream(self, size: int, *, seed: int, start: int = 0, rank: int = 0, world: int = 1) -> Any:
        """The split's own stream."""
        return self.split.stream(size, seed=seed, start=start, rank=rank, world=world)


def rate(space: Any, given: data.Data, evaluators: int, candidates: int) -> tuple[float, float]:
    """Candidates a second, and median seconds of one evaluation."""
    # Of about one cost: a few large candidates would decide which evaluators' rate comes out higher.
    middle = math.sqrt(space.read(space.smallest).macs * space.read(space.largest).macs)
    settings = SearchSettings(
        objectives=["accuracy:max", "macs:min"],
        constraints=[f"macs >= {middle / 1.5:.0f} and macs <= {middle * 1.5:.0f}"],
        evaluations=candidates,
        sampler="random",
        evaluators=evaluators,
        calibration_batches=0,
    )
    weights = space.build().state_dict()
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(Path(folder) / "ledger")
        records = search(space, weights, given, settings, ledger, folder, weights_digest="random")
    return steady_rate(records), statistics.median(record.details["seconds"] for record in records)


def steady_rate(records: list[Record]) -> float:
    """Candidates a second while all evaluators are warm and none has run out of candidates."""
    ended: dict[int, list[float]] = {}
    for record in records:
        moment = datetime.fromisoformat(record.created).timestamp()
        ended.setdefault(record.details["evaluator"], []).append(moment)
    start = max(min(moments) for moments in ended.values())
    end = min(max(moments) for moments in ended.values())
    done = sum(start < moment <= end for moments in ended.values() for moment in moments)
    return done / (end - start)


def main() -> None:
    """Measure in turns, print a table, and end with one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--space", default="search_spaces.vit:tiny")
    parser.add_argument("--candidates", type=int, default=32)
    parser.add_argument("--times", type=int, default=0, help="passes over the validation split; 0 finds out")
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    space = load(options.space)
    given = data.digits(channels=space.inputs(space.largest)["input"][0][0])
    times = options.times or enough(space, given)
    given = data.Data(**{**vars(given), "validation": Repeated(given.validation, times)})
    one: list[float] = []
    two: list[float] = []
    seconds: list[float] = []
    for _ in range(options.repeats):
        for evaluators, rates in ((1, one), (2, two)):
            per_second, each = rate(space, given, evaluators, options.candidates)
            rates.append(per_second)
            seconds.append(each)
    ray.shutdown()
    report(one, two, min(seconds))


def enough(space: Any, given: data.Data) -> int:
    """Passes over the validation split that make a median candidate take ``SHORTEST`` with a margin."""
    passes = 8
    several = data.Data(**{**vars(given), "validation": Repeated(given.validation, passes)})
    _, seconds = rate(space, several, 1, 12)
    return max(1, round(2 * SHORTEST / seconds * passes))


def report(one: list[float], two: list[float], seconds: float) -> None:
    """The table for people, the last line for programs."""
    ratio = statistics.median(two) / statistics.median(one)
    table = Table("", "candidates/s", title=f"median evaluation at least {seconds:.2f} s")
    table.add_row("one evaluator", ", ".join(f"{value:.2f}" for value in one))
    table.add_row("two evaluators", ", ".join(f"{value:.2f}" for value in two))
    table.add_row("ratio", f"{ratio:.2f} (bar >= {BAR})")
    Console().print(table)
    figures = {"ratio": round(ratio, 3), "evaluation_s": round(seconds, 3)}
    passed = ratio >= BAR and seconds >= SHORTEST
    line = {"benchmark": "two_evaluators", "figures": figures, "bars": {"ratio": BAR}, "pass": passed}
    print(json.dumps(line))


if __name__ == "__main__":
    main()
