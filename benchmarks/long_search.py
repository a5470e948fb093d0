"""A search of 10 000 candidates: what its driver's memory grows by, and whether late candidates take longer than early ones.

The evaluation is a sleep of one millisecond, declared as such, through the real search: one Ray Tune trial a
candidate, one Parquet record each. Its memory is held against that of bare Ray Tune over as many empty trials. Each part
runs in a process and a Ray of its own, after a short one of the same kind that loads what both need.

NSGA-II is shown beside, with fewer candidates: Optuna's looks through all trials at every proposal, and proposes what is
known ever more often as it converges.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from zlib import crc32

import numpy as np
import ray
from ray import tune
from rich.console import Console
from rich.table import Table

from manynet.config.settings import SearchSettings
from manynet.records.ledger import Ledger
from manynet.references import load
from manynet.search.evaluator import Evaluation, Provenance
from manynet.search.runs import run
from manynet.search.tune import quiet

SECONDS = 0.001
EVALUATORS = 2
WARM_UP = 50
MEMORY_BAR = 1.2
TIME_BAR = 1.5
PARTS = {"bare": "bare Ray Tune, empty trials", "random": "random sampler", "nsga2": "NSGA-II"}


class Usage:
    """This process's memory and processor time, sampled while a block runs."""

    def __init__(self) -> None:
        self.samples: list[tuple[float, float, float]] = []

    @property
    def grown(self) -> float:
        """By how much the peak of the memory rose, in MB."""
        return (self.samples[-1][2] - self.samples[0][2]) / 1e6

    def cpu(self, at: float) -> float:
        """Processor seconds used until a moment."""
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
        while not ended.wait(0.25):
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            self.samples.append((time.time(), time.process_time(), peak))


class Empty(tune.Trainable):
    """A trial without work."""

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """There is nothing to reset."""
        return True

    def step(self) -> dict[str, Any]:
        """Done at once."""
        return {"score": 0.0, "done": True}


def bare(space: Any, candidates: int, folder: str) -> None:
    """As many empty trials as there would be candidates, as sparingly as Tune can."""
    quiet()
    tune.Tuner(
        tune.with_resources(Empty, {"cpu": 1}),
        param_space=space.domains,
        tune_config=tune.TuneConfig(
            num_samples=candidates, max_concurrent_trials=EVALUATORS, reuse_actors=True
        ),
        run_config=tune.RunConfig(
            storage_path=folder,
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            verbose=0,
        ),
    ).fit()


def prepare() -> Callable[[Any], Evaluation]:
    """An evaluation that takes ``SECONDS``, and says when it ended."""

    def evaluate(arch: Any) -> Evaluation:
        time.sleep(SECONDS)
        # Both change with every choice, and disagree: a front, not one optimum that is proposed for ever.
        merit, price = (sum(crc32(f"{name}{item}".encode()) % 97 for item in arch.items()) for name in "ap")
        return Evaluation({"accuracy": merit / 1e4, "macs": float(price), "ended": time.time()})

    return evaluate


def searched(space: Any, candidates: int, folder: str, sampler: str) -> list[float]:
    """When each candidate of a search ended, in order."""
    settings = SearchSettings(
        objectives=["accuracy:max", "macs:min"],
        evaluations=candidates,
        evaluators=EVALUATORS,
        sampler=sampler,
    )
    provenance = Provenance(space.digest, "none", "none", "sleep")
    records = run(space, settings, Ledger(f"{folder}/ledger"), prepare, provenance, folder)
    assert len(records) == candidates
    return sorted(record.metrics["ended"] for record in records)


def part(name: str, space: Any, candidates: int) -> dict[str, float]:
    """One part's figures, in this process."""
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)

    def once(count: int) -> list[float]:
        with tempfile.TemporaryDirectory() as folder:
            if name == "bare":
                bare(space, count, folder)
                return []
            return searched(space, count, folder, name)

    once(WARM_UP)
    usage = Usage()
    with usage.sampled():
        started = time.time()
        ended = once(candidates)
        took = time.time() - started
    ray.shutdown()
    figures = {"memory_mb": usage.grown, "seconds": took}
    if ended:
        tenth = candidates // 10
        edges = ended[0], ended[tenth], ended[-1 - tenth], ended[-1]
        walls = [1e3 * (b - a) / tenth for a, b in (edges[:2], edges[2:])]
        cpus = [1e3 * (usage.cpu(b) - usage.cpu(a)) / tenth for a, b in (edges[:2], edges[2:])]
        figures |= {
            "first_ms": walls[0],
            "last_ms": walls[1],
            "first_cpu_ms": cpus[0],
            "last_cpu_ms": cpus[1],
        }
    return figures


def measured(name: str, options: argparse.Namespace) -> dict[str, float]:
    """One part's figures, from a process of its own."""
    command = [sys.executable, __file__, "--part", name, "--space", options.space]
    command += ["--candidates", str(options.nsga2_candidates if name == "nsga2" else options.candidates)]
    ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=dict(os.environ))
    figures: dict[str, float] = json.loads(ran.stdout.splitlines()[-1])
    return figures


def main() -> None:
    """Measure, print a table, and end with one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--space", default="search_spaces.vit:tiny")
    parser.add_argument("--candidates", type=int, default=10_000)
    parser.add_argument("--nsga2-candidates", type=int, default=2000)
    parser.add_argument("--part", choices=list(PARTS), help="measure one in this process, for the others")
    options = parser.parse_args()
    if options.part:
        print(json.dumps(part(options.part, load(options.space), options.candidates)))
        return
    report({name: measured(name, options) for name in PARTS}, options)


def report(parts: dict[str, dict[str, float]], options: argparse.Namespace) -> None:
    """The table for people, the last line for programs."""
    table = Table("", "driver's memory", "first tenth", "last tenth", "its CPU", "all")
    table.title = f"{options.candidates} candidates of {SECONDS * 1e3:g} ms, {options.space}"
    for name, figures in parts.items():
        title = PARTS[name] + (f", {options.nsga2_candidates}" if name == "nsga2" else "")
        row = [title, f"+{figures['memory_mb']:.0f} MB"]
        if "first_ms" in figures:
            row += [f"{figures['first_ms']:.1f} ms each", f"{figures['last_ms']:.1f} ms"]
            row += [f"{figures['first_cpu_ms']:.1f} to {figures['last_cpu_ms']:.1f} ms"]
        else:
            row += [""] * 3
        table.add_row(*row, f"{figures['seconds']:.0f} s")
    Console().print(table)
    random = parts["random"]
    ratios = {
        "memory_to_bare_tune": random["memory_mb"] / parts["bare"]["memory_mb"],
        "last_to_first_tenth": random["last_ms"] / random["first_ms"],
        "nsga2_last_to_first_tenth": parts["nsga2"]["last_ms"] / parts["nsga2"]["first_ms"],
    }
    line = {
        "benchmark": "long_search",
        "figures": {name: round(value, 3) for name, value in ratios.items()},
        "bars": {"memory_to_bare_tune": MEMORY_BAR, "last_to_first_tenth": TIME_BAR},
        "pass": ratios["memory_to_bare_tune"] <= MEMORY_BAR and ratios["last_to_first_tenth"] <= TIME_BAR,
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
