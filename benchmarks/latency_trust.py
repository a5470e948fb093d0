"""Can measured latency be trusted while a search keeps the machine busy?

Thirty ``deit_scaling`` subnets, evenly spaced in log latency, are measured twice on ``host/torch``, in two orders, while
two evaluators score candidates on the same machine. Three times: with the lease (evaluators wait for each measurement),
with cores of its own for the device (evaluators run on the others), and with neither. Printed are Kendall's tau
between the two measurements, how far they differ (median), and how long networks take beside their time with the
lease: what disturbs all alike ranks well, and is wrong all the same.

    python benchmarks/latency_trust.py [--subnets 30]
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import ray
import torch
from rich.console import Console
from rich.table import Table
from scipy.stats import kendalltau
from torch import nn

import manynet as mn
from manynet.data import digits
from manynet.devices import DevicePool
from manynet.latency.predictor import LatencyPredictor
from manynet.search_spaces import vit
from manynet.space.evaluation import score

DEVICE = "host/torch"
SPAN = 4.0
DRAWN, MEASURED = 1000, 60
BARS = {"tau_lease": 0.95, "difference_lease": 0.03}
Lease = Callable[[], AbstractContextManager[object]]


def main() -> None:
    """Measure under each isolation in turn, print a table, and end with one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--subnets", type=int, default=30)
    options = parser.parse_args()
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    archs = spaced(options.subnets)
    ways: dict[str, tuple[bool, bool]] = {
        "lease": (False, True),
        "cores": (True, True),
        "none": (False, False),
    }
    rows = {name: twice(archs, isolate, heeds) for name, (isolate, heeds) in ways.items()}
    ray.shutdown()
    report(rows)


def spaced(count: int) -> list[mn.Architecture]:
    """Subnets evenly spaced in log latency over twice ``SPAN``, as predicted from some that were measured."""
    space = vit.deit_scaling
    drawn = [space.sample(seed) for seed in range(DRAWN)]
    costs = [[mn.cost(space, arch).macs, mn.cost(space, arch).parameters] for arch in drawn]
    some = nearest(np.log([macs for macs, _ in costs]), MEASURED)
    with DevicePool([DEVICE]) as pool:
        times = [measured(pool, drawn[index]) for index in some]
    predictor = LatencyPredictor.fit(
        space.domains, [drawn[index] for index in some], times, [costs[index] for index in some]
    )
    predicted = predictor.predict(drawn, costs).milliseconds
    # The largest take longest to measure and tell nothing more.
    fastest = float(np.quantile(predicted, 0.02))
    inside = np.flatnonzero((predicted >= fastest) & (predicted <= 2 * SPAN * fastest))
    return [drawn[inside[index]] for index in nearest(np.log(predicted[inside]), count)]


def nearest(values: Any, count: int) -> list[int]:
    """Indices of the values nearest to an even grid over them, each once."""
    left = dict(enumerate(values))
    found = []
    for place in np.linspace(min(values), max(values), count):
        index = min(left, key=lambda one: abs(left[one] - place))
        found.append(index)
        del left[index]
    return found


def measured(pool: DevicePool, arch: mn.Architecture) -> float:
    """Milliseconds of one subnet."""
    example = vit.deit_scaling.example(arch, batch=1)
    subnet = mn.extract(supernet(), arch, example)
    return pool.measure(subnet, example)[DEVICE].milliseconds


@cache
def supernet() -> nn.Module:
    """With random weights, which take as long as any."""
    return vit.deit_scaling.build().eval()


def twice(
    archs: Sequence[mn.Architecture], isolate: bool, heeds: bool
) -> tuple[list[float], list[float], int]:
    """Two measurements of each, in two random orders, and the batches that evaluators scored meanwhile."""
    stop = Path(mkdtemp()) / "stop"
    with DevicePool([DEVICE], isolate=isolate) as pool:
        load = [evaluate.remote(pool.lease if heeds else nullcontext, stop, seed) for seed in range(2)]
        runs = []
        for seed in range(2):
            order = random.Random(seed).sample(range(len(archs)), len(archs))
            times = {index: measured(pool, archs[index]) for index in order}
            runs.append([times[index] for index in range(len(archs))])
        stop.touch()
        batches = sum(ray.get(load))
    return runs[0], runs[1], batches


@ray.remote(num_cpus=1)
def evaluate(lease: Lease, stop: Path, seed: int) -> int:
    """Score subnets as an evaluator does, batch by batch, until told to stop; how many."""
    torch.set_num_threads(1)
    space, split = vit.tiny, digits().validation
    network, done = space.build().eval(), 0
    while not stop.exists():
        arch = space.sample(seed + 2 * done)
        subnet = mn.extract(network, arch, space.example(arch, batch=1))
        score(subnet, space, split, batch_size=64, lease=lease)
        done += 1
    return done


def report(rows: dict[str, tuple[list[float], list[float], int]]) -> None:
    """The table for people, the last line for programs."""
    table = Table("evaluators and device", "Kendall tau", "repeat differs", "time", "candidates scored")
    words = {"lease": "share a lease", "cores": "have cores of their own", "none": "disturb each other"}
    figures: dict[str, float] = {}
    for name, (first, second, batches) in rows.items():
        tau = float(kendalltau(first, second).statistic)
        differences = [abs(a / b - 1) for a, b in zip(first, second, strict=True)]
        level = statistics.median(a / b for a, b in zip(first, rows["lease"][0], strict=True))
        difference = statistics.median(differences)
        table.add_row(words[name], f"{tau:.3f}", f"{difference:.1%}", f"{level:.2f}x", f"{batches}")
        figures |= {f"tau_{name}": round(tau, 3), f"difference_{name}": round(difference, 4)}
        figures[f"time_{name}"] = round(level, 3)
    first = rows["lease"][0]
    figures["span"] = round(max(first) / min(first), 2)
    figures["largest_gap"] = round(math.exp(max(np.diff(np.sort(np.log(first))))) - 1, 3)
    Console().print(table)
    Console().print(
        f"latency spans {figures['span']:.1f}x; neighbours differ by {figures['largest_gap']:.0%} at most"
    )
    passed = (
        figures["tau_lease"] >= BARS["tau_lease"]
        and figures["difference_lease"] <= BARS["difference_lease"]
        and figures["span"] >= SPAN
    )
    line = {"benchmark": "latency_trust", "figures": figures, "bars": {**BARS, "span": SPAN}, "pass": passed}
    print(json.dumps(line))


if __name__ == "__main__":
    main()
