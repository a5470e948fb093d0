"""Two evaluators against one: candidates a second, real scoring, one thread each.

The same candidates (random sampler, same seed) are scored through the real search by one evaluator and by two, in
turns, with enough validation images that a candidate takes at least half a second.

    python benchmarks/two_evaluators.py [--candidates 32]
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import tempfile
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from support.frame import Option, at_least, run, show
from support.processes import local_ray

from manynet import data
from manynet.config.settings import SearchSettings
from manynet.data.order import Rows
from manynet.data.row_access import RandomAccessSplit
from manynet.records.ledger import Ledger, Record
from manynet.references import load
from manynet.search.runs import search
from manynet.space.search_space import SearchSpace

SHORTEST = 0.5
OPTIONS = (
    Option("--space", "search_spaces.vit:tiny"),
    Option("--candidates", 32, quick=8),
    Option("--times", 0, "passes over the validation split; 0 finds out", quick=1),
    Option("--repeats", 2, quick=1),
    Option("--evaluators", (1, 2), quick=(2,)),
)
BARS = {"ratio": at_least(1.7), "evaluation_s": at_least(SHORTEST)}


@dataclass(frozen=True, eq=False)
class Repeated(RandomAccessSplit):
    """A split gone through several times over, so that a candidate takes long enough."""

    split: RandomAccessSplit
    times: int

    def __len__(self) -> int:
        return len(self.split) * self.times

    def take(self, rows: Rows) -> data.Batch:
        return self.split.take(rows % len(self.split))


def main(given: Namespace) -> dict[str, Any]:
    """Measure in turns."""
    space: SearchSpace = load(given.space)
    loaded = data.digits(channels=space.inputs(space.largest)["input"][0][0])
    rates: dict[int, list[float]] = {count: [] for count in given.evaluators}
    seconds = []
    with local_ray(2):
        lengthened = repeated(loaded, given.times or enough(space, loaded))
        for _ in range(given.repeats):
            for evaluators, row in rates.items():
                per_second, each = rate(space, lengthened, evaluators, given.candidates)
                row.append(per_second)
                seconds.append(each)
    show(
        f"median evaluation at least {min(seconds):.2f} s",
        ("evaluators", "candidates/s"),
        [(str(count), ", ".join(f"{value:.2f}" for value in row)) for count, row in rates.items()],
    )
    medians = {count: statistics.median(row) for count, row in rates.items()}
    ratio = medians[2] / medians[1] if medians.keys() >= {1, 2} else None
    return {"ratio": ratio, "evaluation_s": min(seconds), "candidates_a_second": medians}


def repeated(loaded: data.Data, times: int) -> data.Data:
    """The same data with so many passes over the validation split."""
    assert isinstance(loaded.validation, RandomAccessSplit)
    return dataclasses.replace(loaded, validation=Repeated(loaded.validation, times))


def enough(space: SearchSpace, loaded: data.Data) -> int:
    """Passes over the validation split that make a median candidate take ``SHORTEST`` with a margin."""
    passes = 8
    _, seconds = rate(space, repeated(loaded, passes), 1, 12)
    return max(1, round(2 * SHORTEST / seconds * passes))


def rate(space: SearchSpace, loaded: data.Data, evaluators: int, candidates: int) -> tuple[float, float]:
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
        ledger = Ledger(f"{folder}/ledger")
        records = search(space, weights, loaded, settings, ledger, folder, weights_digest="random")
    return steady_rate(records), statistics.median(record.details["seconds"] for record in records)


def steady_rate(records: Sequence[Record]) -> float:
    """Candidates a second while all evaluators are warm and none has run out of candidates; NaN for too few."""
    ended: dict[int, list[float]] = {}
    for record in records:
        moment = datetime.fromisoformat(record.created).timestamp()
        ended.setdefault(record.details["evaluator"], []).append(moment)
    start = max(min(moments) for moments in ended.values())
    end = min(max(moments) for moments in ended.values())
    done = sum(start < moment <= end for moments in ended.values() for moment in moments)
    return done / (end - start) if end > start else math.nan


if __name__ == "__main__":
    run(main, file=__file__, about=__doc__, options=OPTIONS, bars=BARS)
