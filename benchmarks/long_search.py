"""A search of 10 000 candidates: what its driver's memory grows by, and whether late candidates take longer than early ones.

The evaluation is a sleep of one millisecond, declared as such, through the real search: one Ray Tune trial a
candidate, one Parquet record each. Its memory is held against that of bare Ray Tune over as many empty trials. Each part
runs in a process and a Ray of its own, after a short one of the same kind that loads what both need.

NSGA-II is shown beside, with fewer candidates: Optuna's looks through all trials at every proposal, and proposes what is
known ever more often as it converges.

    python benchmarks/long_search.py [--candidates 10000]
"""

from __future__ import annotations

import math
import threading
import time
from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
from support.frame import Option, at_most, run, show
from support.memory import peak_megabytes
from support.processes import in_own_process, local_ray
from support.sleeping import asleep, bare_tune

from manynet.references import load

SECONDS = 0.001
PARTS = {"bare": "bare Ray Tune, empty trials", "random": "random sampler", "nsga2": "NSGA-II"}
OPTIONS = (
    Option("--space", "search_spaces.vit:tiny"),
    Option("--candidates", 10_000, quick=12),
    Option("--nsga2-candidates", 2000, quick=12),
    Option("--warm-up", 50, "candidates of the short run before", quick=0),
    Option("--evaluators", 2, quick=1),
    Option("--parts", tuple(PARTS), quick=("bare", "random")),
)
BARS = {"memory_to_bare_tune": at_most(1.2), "last_to_first_tenth": at_most(1.5)}


class Usage:
    """This process's peak memory and CPU time, sampled while a block runs."""

    def __init__(self) -> None:
        self.samples: list[tuple[float, float, float]] = []

    @property
    def grown(self) -> float:
        """By how much the peak of the memory rose, in MB."""
        return self.samples[-1][2] - self.samples[0][2]

    def cpu(self, at: float) -> float:
        """CPU seconds used until a moment."""
        times, cpus, _ = zip(*self.samples, strict=True)
        return float(np.interp(at, times, cpus))

    @contextmanager
    def sampled(self) -> Iterator[None]:
        """Sample until the block ends."""
        ended = threading.Event()
        thread = threading.Thread(target=self._sample, args=(ended,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _sample(self, ended: threading.Event) -> None:
        while not ended.is_set():
            self.samples.append((time.time(), time.process_time(), peak_megabytes()))
            ended.wait(0.25)


def main(given: Namespace) -> dict[str, float | None]:
    """Run all parts; in a quick run, one process and one Ray do for all."""
    if given.quick:
        with local_ray(2):
            parts = {name: part(name, given) for name in given.parts}
    else:
        parts = {name: in_own_process(apart, name, given) for name in given.parts}
    show(
        f"{given.candidates} candidates of {SECONDS * 1e3:g} ms, {given.space}",
        ("", "driver's memory", "first tenth", "last tenth", "its CPU", "all"),
        [row(name, figures, given) for name, figures in parts.items()],
    )
    grown = {name: figures["memory_mb"] for name, figures in parts.items()}
    later = {
        name: figures["last_ms"] / figures["first_ms"] for name, figures in parts.items() if name != "bare"
    }
    return {
        "memory_to_bare_tune": grown["random"] / grown["bare"] if grown["bare"] else math.nan,
        "last_to_first_tenth": later["random"],
        "nsga2_last_to_first_tenth": later.get("nsga2"),
    }


def apart(name: str, given: Namespace) -> dict[str, float]:
    """One part's figures, in a Ray of its own."""
    with local_ray(4):
        return part(name, given)


def part(name: str, given: Namespace) -> dict[str, float]:
    """One part's figures."""
    if given.warm_up:
        once(name, given.warm_up, given)
    usage = Usage()
    with usage.sampled():
        started = time.time()
        ended = once(name, given.nsga2_candidates if name == "nsga2" else given.candidates, given)
        took = time.time() - started
    return {"memory_mb": usage.grown, "seconds": took} | (tenths(ended, usage) if ended else {})


def once(name: str, candidates: int, given: Namespace) -> list[float]:
    """When each candidate ended, in order; nothing of bare Tune's."""
    if name == "bare":
        bare_tune(load(given.space), candidates, given.evaluators)
        return []
    records = asleep(load(given.space), SECONDS, candidates, given.evaluators, name)
    return [record.metrics["ended"] for record in records]


def tenths(ended: list[float], usage: Usage) -> dict[str, float]:
    """Milliseconds a candidate, wall and CPU, in the first tenth and in the last."""
    tenth = len(ended) // 10
    spans = {"first": (ended[0], ended[tenth]), "last": (ended[-1 - tenth], ended[-1])}
    figures = {}
    for name, (start, end) in spans.items():
        figures[f"{name}_ms"] = 1e3 * (end - start) / tenth
        figures[f"{name}_cpu_ms"] = 1e3 * (usage.cpu(end) - usage.cpu(start)) / tenth
    return figures


def row(name: str, figures: Mapping[str, float], given: Namespace) -> list[str]:
    """Of the table."""
    title = PARTS[name] + (f", {given.nsga2_candidates}" if name == "nsga2" else "")
    cells = [title, f"+{figures['memory_mb']:.0f} MB", "", "", ""]
    if "first_ms" in figures:
        cells[2:] = [f"{figures['first_ms']:.1f} ms each", f"{figures['last_ms']:.1f} ms"]
        cells += [f"{figures['first_cpu_ms']:.1f} to {figures['last_cpu_ms']:.1f} ms"]
    return [*cells, f"{figures['seconds']:.0f} s"]


if __name__ == "__main__":
    run(main, file=__file__, about=__doc__, options=OPTIONS, bars=BARS)
