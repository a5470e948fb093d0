"""What sharing weights costs: a subnet run through the supernet against the same net extracted.

``search_spaces.vit:deit_scaling`` at 224 pixels, batch 8, one thread, CPU seconds (GPU: wall time of
synchronised steps, in bf16). Ten subnets, seeds 0 to 9, and the space's smallest. The training step is
the product's own: forward, backward, zeroing, clipping, AdamW and weight average. 1.0 is no overhead.

    python benchmarks/subnet_overhead.py [--device cuda]
"""

from __future__ import annotations

import statistics
from argparse import Namespace
from collections.abc import Callable
from typing import Any

import torch
from support.frame import Option, at_most, run, show
from support.one_path import OnePath
from support.timing import clock_of, median_ratio
from torch import nn

import manynet as mn
from manynet.config.settings import TrainSettings
from manynet.data import Batch
from manynet.learning.learner import Learner
from manynet.search_spaces.vit import deit_scaling

OPTIONS = (
    Option("--device", "cpu"),
    Option("--repeats", 5, quick=1),
    Option("--subnets", 10, quick=1),
    Option("--pixels", 224, quick=int(deit_scaling.smallest["resolution"])),
    Option("--batch", 8, quick=1),
)
BARS = {
    "inference_median": at_most(1.05),
    "training_median": at_most(1.15),
    "training_smallest": at_most(1.4),
}


def main(given: Namespace) -> dict[str, float]:
    """Compare each subnet inside and outside."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    supernet = deit_scaling.build().to(given.device)
    sampled = {f"seed {seed}": deit_scaling.sample(seed) for seed in range(given.subnets)}
    archs = {
        name: {**arch, "resolution": given.pixels}
        for name, arch in {**sampled, "smallest of the space": deit_scaling.smallest}.items()
    }
    costs = {name: mn.cost(deit_scaling, arch) for name, arch in archs.items()}
    found = {name: ratios(supernet, arch, given) for name, arch in archs.items()}
    show(
        f"supernet / extracted, {given.device}",
        ("subnet", "MACs", "parameters", "inference", "training step"),
        [
            (
                name,
                f"{costs[name].macs:,}",
                f"{costs[name].parameters:,}",
                *(f"{ratio:.3f}" for ratio in pair),
            )
            for name, pair in found.items()
        ],
    )
    smallest = min(sampled, key=lambda name: costs[name].macs)
    return {
        "inference_median": statistics.median(found[name][0] for name in sampled),
        "training_median": statistics.median(found[name][1] for name in sampled),
        "training_smallest": found[smallest][1],
        "training_smallest_of_space": found["smallest of the space"][1],
    }


def ratios(supernet: nn.Module, arch: mn.Architecture, given: Namespace) -> tuple[float, float]:
    """Supernet over extracted, inference and training step."""
    device = torch.device(given.device)
    subnet = mn.extract(supernet, arch, deit_scaling.example(arch, 1, device))
    inputs = deit_scaling.example(arch, given.batch, device)
    batch = Batch(inputs, torch.zeros(given.batch, dtype=torch.int64, device=device))
    precision = "bf16" if device.type == "cuda" else "float32"
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")

    def infer(network: nn.Module, **arguments: Any) -> Callable[[], object]:
        def once() -> None:
            with torch.inference_mode(), autocast:
                network(*inputs, **arguments)

        return once

    def train(network: nn.Module, path: mn.Architecture | None) -> Callable[[], object]:
        learner = Learner(network, deit_scaling, OnePath(path), TrainSettings(precision=precision))
        return lambda: learner.train_on(batch)

    clock, repeats = clock_of(device), given.repeats
    inference = median_ratio(infer(supernet, arch=arch), infer(subnet), 3 * repeats, clock=clock)
    return inference, median_ratio(train(supernet, arch), train(subnet, None), repeats, clock=clock)


if __name__ == "__main__":
    run(main, file=__file__, about=__doc__, options=OPTIONS, bars=BARS)
