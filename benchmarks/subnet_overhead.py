"""What sharing weights costs: a subnet run through the supernet against the same net extracted.

``search_spaces.vit:deit_scaling`` at 224 pixels, batch 8, one thread, CPU seconds (GPU: wall time of
synchronised steps, in bf16). Ten subnets, seeds 0 to 9, and the space's smallest. The training step is
the product's own: forward, backward, zeroing, clipping, AdamW and weight average. 1.0 is no overhead.

    python benchmarks/subnet_overhead.py [--device cuda]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

import manynet as mn
from manynet.config.settings import TrainSettings
from manynet.data import Batch
from manynet.learning.learner import Learner
from manynet.learning.strategy import Step, Strategy
from manynet.search_spaces.vit import deit_scaling

BARS = {"inference_median": 1.05, "training_median": 1.15, "training_smallest": 1.4}
PIXELS, BATCH, SUBNETS = 224, 8, 10


class Fixed(Strategy):
    """Trains one path: of a supernet when given an architecture, else of an extracted subnet."""

    def __init__(self, arch: Mapping[str, Any] | None) -> None:
        self.arguments = {} if arch is None else {"arch": arch}

    def backward(self, network: nn.Module, batch: Batch, step: Step) -> dict[str, torch.Tensor]:
        with step.autocast():
            loss = step.space.task.loss(network(*batch.inputs, **self.arguments), batch.targets)
        loss.backward()
        return {"loss": loss.detach()}


def main() -> None:
    """Measure, print a table, then one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    device = torch.device(given.device)
    supernet = deit_scaling.build().to(device)
    archs = [deit_scaling.sample(seed) | {"resolution": PIXELS} for seed in range(SUBNETS)]
    smallest = dict(deit_scaling.smallest) | {"resolution": PIXELS}
    rows = [
        (mn.cost(deit_scaling, a), *ratios(supernet, a, device, given.repeats)) for a in [*archs, smallest]
    ]
    show(rows, str(device))


def ratios(
    supernet: nn.Module, arch: Mapping[str, Any], device: torch.device, repeats: int
) -> tuple[float, float]:
    """Supernet over extracted, inference and training step."""
    subnet = mn.extract(supernet, arch, deit_scaling.example(arch, 1, device))
    inputs = deit_scaling.example(arch, BATCH, device)
    batch = Batch(inputs, torch.zeros(BATCH, dtype=torch.int64, device=device))
    precision = "bf16" if device.type == "cuda" else "float32"
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")

    def infer(network: nn.Module, **arguments: Any) -> Callable[[], Any]:
        def run() -> None:
            with torch.inference_mode(), autocast:
                network(*inputs, **arguments)

        return run

    def train(network: nn.Module, path: Mapping[str, Any] | None) -> Callable[[], Any]:
        learner = Learner(network, deit_scaling, Fixed(path), TrainSettings(precision=precision))
        return lambda: learner.train_on(batch)

    inference = paired(infer(supernet, arch=arch), infer(subnet), device, 3 * repeats)
    return inference, paired(train(supernet, arch), train(subnet, None), device, repeats)


def paired(one: Callable[[], Any], other: Callable[[], Any], device: torch.device, repeats: int) -> float:
    """Ratio of the medians of two runs that take turns, after one warm-up of each."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for repeat in range(repeats + 1):
        for run, taken in zip((one, other), seconds, strict=True):
            start = clock(device)
            run()
            if repeat:
                taken.append(clock(device) - start)
    return statistics.median(seconds[0]) / statistics.median(seconds[1])


def clock(device: torch.device) -> float:
    """CPU seconds of this process, or wall seconds once the GPU is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time()


def show(rows: list[tuple[mn.Cost, float, float]], device: str) -> None:
    """Print the table and the line for scripts; the last row is the space's smallest subnet."""
    table = Table(
        "subnet", "MACs", "parameters", "inference", "training step", title=f"supernet / extracted, {device}"
    )
    for index, (cost, inference, training) in enumerate(rows):
        name = "smallest of the space" if index == SUBNETS else f"seed {index}"
        table.add_row(name, f"{cost.macs:,}", f"{cost.parameters:,}", f"{inference:.3f}", f"{training:.3f}")
    Console().print(table)
    sampled = rows[:SUBNETS]
    figures = {
        "inference_median": round(statistics.median(row[1] for row in sampled), 4),
        "training_median": round(statistics.median(row[2] for row in sampled), 4),
        "training_smallest": round(min(sampled, key=lambda row: row[0].macs)[2], 4),
        "training_smallest_of_space": round(rows[-1][2], 4),
    }
    passed = all(figures[name] <= bar for name, bar in BARS.items())
    print(json.dumps({"benchmark": "subnet_overhead", "figures": figures, "bars": BARS, "pass": passed}))


if __name__ == "__main__":
    main()
