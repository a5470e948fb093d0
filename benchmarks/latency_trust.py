"""Can measured latency be trusted while a search keeps the machine busy?

Thirty ``deit_scaling`` subnets, evenly spaced in log latency, are measured twice on ``host/torch``, in two orders, while
two evaluators score candidates on the same machine. Three times: with the lease (evaluators wait for each measurement),
with cores of its own for the device (evaluators run on the others), and with neither. Printed are Kendall's tau
between the two measurements, how far they differ (median), and how long networks take beside their time with the
lease: what disturbs all alike ranks well, and is wrong all the same.

    python benchmarks/latency_trust.py [--subnets 30]

Latencies must span a wide range, in small steps, or ranks would be too easy or would tell nothing.
"""

from __future__ import annotations

import math
import random
import statistics
from argparse import Namespace
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import ray
import torch
from scipy.stats import kendalltau
from support.frame import Option, at_least, at_most, run, show
from support.processes import local_ray
from torch import nn

import manynet as mn
from manynet.data import digits
from manynet.devices import DevicePool
from manynet.latency.predictor import LatencyPredictor
from manynet.references import load
from manynet.search_spaces import vit
from manynet.space.evaluation import score

DEVICE = "host/torch"
SPAN = 4.0
WAYS = {
    "lease": "share a lease",
    "cores": "have cores of their own",
    "none": "disturb each other",
}
OPTIONS = (
    Option("--space", "search_spaces.vit:deit_scaling", quick="search_spaces.vit:tiny"),
    Option("--subnets", 30, quick=2),
    Option("--ways", tuple(WAYS), "the lease first, which others are compared with", quick=("lease",)),
    Option("--drawn", 1000, "that the subnets are chosen from", quick=12),
    Option("--measured", 60, "that the choice learns latency from", quick=10),
)
BARS = {"tau_lease": at_least(0.95), "difference_lease": at_most(0.03), "span": at_least(SPAN)}
Runs = tuple[list[float], list[float], int]
Lease = Callable[[], AbstractContextManager[object]]


def main(given: Namespace) -> dict[str, float]:
    """Measure under each isolation in turn."""
    space: mn.SearchSpace = load(given.space)
    with local_ray(2):
        archs = spaced(space, given)
        runs = {way: twice(space, archs, way) for way in given.ways}
    rows, figures = [], dict[str, float]()
    shared = runs["lease"][0]
    for name, (first, second, batches) in runs.items():
        tau = float(kendalltau(first, second).statistic)
        difference = statistics.median(abs(a / b - 1) for a, b in zip(first, second, strict=True))
        level = statistics.median(a / b for a, b in zip(first, shared, strict=True))
        rows.append((WAYS[name], f"{tau:.3f}", f"{difference:.1%}", f"{level:.2f}x", f"{batches}"))
        figures |= {f"tau_{name}": tau, f"difference_{name}": difference}
        if name != "lease":
            figures[f"time_{name}"] = level
    show(
        "two measurements of each subnet",
        ("evaluators and device", "Kendall tau", "repeat differs", "time", "candidates scored"),
        rows,
    )
    figures["span"] = max(shared) / min(shared)
    figures["largest_gap"] = math.exp(max(np.diff(np.sort(np.log(shared))))) - 1
    return figures


def spaced(space: mn.SearchSpace, given: Namespace) -> list[mn.Architecture]:
    """Subnets evenly spaced in log latency over twice ``SPAN``, as predicted from some that were measured."""
    drawn = [space.sample(seed) for seed in range(given.drawn)]
    costs = [[mn.cost(space, arch).macs, mn.cost(space, arch).parameters] for arch in drawn]
    some = nearest(np.log([macs for macs, _ in costs]), given.measured)
    with DevicePool([DEVICE]) as pool:
        times = [measured(pool, space, drawn[index]) for index in some]
    predictor = LatencyPredictor.fit(
        space.domains, [drawn[index] for index in some], times, [costs[index] for index in some]
    )
    predicted = predictor.predict(drawn, costs).milliseconds
    # The largest take longest to measure and tell nothing more.
    fastest = float(np.quantile(predicted, 0.02))
    inside = np.flatnonzero((predicted >= fastest) & (predicted <= 2 * SPAN * fastest))
    return [drawn[inside[index]] for index in nearest(np.log(predicted[inside]), given.subnets)]


def nearest(values: Any, count: int) -> list[int]:
    """Indices of the values nearest to an even grid over them, each once."""
    left = dict(enumerate(values))
    found = []
    for place in np.linspace(min(values), max(values), min(count, len(left))):
        index = min(left, key=lambda one: abs(left[one] - place))
        found.append(index)
        del left[index]
    return found


def measured(pool: DevicePool, space: mn.SearchSpace, arch: mn.Architecture) -> float:
    """Milliseconds of one subnet."""
    example = space.example(arch, batch=1)
    subnet = mn.extract(supernet(space), arch, example)
    return pool.measure(subnet, example)[DEVICE].milliseconds


@cache
def supernet(space: mn.SearchSpace) -> nn.Module:
    """With random weights, which take as long as any."""
    return space.build().eval()


def twice(space: mn.SearchSpace, archs: Sequence[mn.Architecture], way: str) -> Runs:
    """Two measurements of each, in two random orders, and the batches that evaluators scored meanwhile."""
    stop = Path(mkdtemp()) / "stop"
    with DevicePool([DEVICE], isolate=way == "cores") as pool:
        busy = [
            evaluate.remote(pool.lease if way != "none" else nullcontext, stop, seed) for seed in range(2)
        ]
        runs = []
        for seed in range(2):
            order = random.Random(seed).sample(range(len(archs)), len(archs))
            times = {index: measured(pool, space, archs[index]) for index in order}
            runs.append([times[index] for index in range(len(archs))])
        stop.touch()
        batches = sum(ray.get(busy))
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


if __name__ == "__main__":
    run(main, file=__file__, about=__doc__, options=OPTIONS, bars=BARS)
