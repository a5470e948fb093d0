"""NASRec's full space on one thread, against what its authors released.

Seven blocks, 26 tables of 10 000 rows, 16 features a token, 13 dense features, batch 512. CPU seconds, and the
same as multiples of a 1024 x 1024 float32 matrix product on the same thread, which carry to other machines. The
figures of the released code were taken on another machine, and so are compared as multiples.

    python benchmarks/nasrec.py
"""

from __future__ import annotations

from argparse import Namespace
from functools import partial
from statistics import mean, median
from typing import Any

import torch
from support.frame import Option, at_most, run, show
from support.memory import peak_megabytes
from support.one_path import OnePath
from support.processes import in_own_process, in_this_process
from support.timing import cpu_seconds, matmul_seconds, median_ratio
from torch import nn

import manynet as mn
from manynet.config.settings import TrainSettings
from manynet.data import Batch
from manynet.data.features import Categorical, Features
from manynet.learning.head_tuning import with_tuned_head
from manynet.learning.learner import Learner
from manynet.references import load
from manynet.runtime.malloc import keep_freed_memory
from manynet.trainers.any_connection import AnyConnection
from manynet.trainers.finetune import FineTune

DENSE, CATEGORICAL = 13, 26
RELEASED = {"step": 101.0, "score": 2050.0, "megabytes": 2900.0}
UNITS = {"step": "matrix products", "score": "matrix products", "megabytes": "MB"}
OPTIONS = (
    Option("--space", "search_spaces.nasrec:full", quick="search_spaces.nasrec:tiny"),
    Option("--rows", 10_000, "of each embedding table", quick=10),
    Option("--batch", 512, quick=4),
    Option("--paths", 20, "that are trained for a step", quick=1),
    Option("--scored", 4, "candidates", quick=1),
    Option("--batches", 50, "that a candidate is scored on", quick=1),
    Option("--rounds", 5, "of scoring", quick=1),
    Option("--compared", 10, "subnets, inside the supernet and extracted", quick=1),
    Option("--repeats", 7, "of each comparison", quick=1),
)
BARS = {
    "step": at_most(16.0),
    "score": at_most(185.0),
    "inference": at_most(1.05),
    "training": at_most(1.3),
    "megabytes": at_most(1800.0),
}


def main(given: Namespace) -> dict[str, Any]:
    """Measure, and print each figure beside that of the released code."""
    start()
    figures = {**step_seconds(given), **score_seconds(given), **overheads(given)}
    apart = in_this_process if given.quick else in_own_process
    figures["megabytes"] = apart(peak_of_training, given)
    rows = []
    for name in BARS:
        seconds = f"{figures[f'{name}_seconds']:.2f}" if f"{name}_seconds" in figures else ""
        released = f"{RELEASED[name]:,.0f}" if name in RELEASED else ""
        rows.append((name, f"{figures[name]:,.2f}", UNITS.get(name, "x"), seconds, released))
    show(f"{given.space}, one thread", ("", "is", "unit", "CPU s", "released code"), rows)
    return figures


def start() -> None:
    """One thread, one seed, and memory as the platform's own training keeps it."""
    keep_freed_memory()
    torch.set_num_threads(1)
    torch.manual_seed(0)


def space_of(given: Namespace) -> mn.SearchSpace:
    """The space for features of Criteo's shape."""
    features = Features(
        tuple(f"I{number}" for number in range(DENSE)),
        tuple(Categorical(f"C{number}", given.rows) for number in range(CATEGORICAL)),
    )
    space: mn.SearchSpace = load(given.space).fitted(features)
    return space


def settings_of(given: Namespace) -> TrainSettings:
    """The recipe of every step."""
    return TrainSettings(
        optimizer="adagrad", learning_rate=0.12, warmup=0, gradient_clip=5.0, ema=0, batch_size=given.batch,
        steps=10**6,
    )  # fmt: skip


def batches(count: int, given: Namespace) -> list[Batch]:
    """Made batches, in memory."""
    generator = torch.Generator().manual_seed(0)
    return [
        Batch(
            (
                torch.randn(given.batch, DENSE, generator=generator).abs(),
                torch.randint(0, given.rows, (given.batch, CATEGORICAL), generator=generator),
            ),
            (torch.rand(given.batch, generator=generator) < 0.25).float(),
        )
        for _ in range(count)
    ]


def step_seconds(given: Namespace) -> dict[str, float]:
    """Forward, backward, clip and optimizer, embeddings included; yardsticks in between."""
    space = space_of(given)
    trained = Learner(space.build(), space, AnyConnection(warmup=0.0), settings_of(given))
    (batch,) = batches(1, given)
    trained.train_on(batch)
    trained.step = 0
    seconds, yardsticks = [], []
    for _ in range(given.paths):
        yardsticks.append(matmul_seconds(3))
        seconds.append(cpu_seconds(lambda: trained.train_on(batch)))
    return {"step": mean(seconds) / mean(yardsticks), "step_seconds": mean(seconds)}


def score_seconds(given: Namespace) -> dict[str, Any]:
    """Extraction, 50 batches, AUC and log loss: the median of some rounds, because a busy host slows memory down
    more than arithmetic; and fine-tuning for as many steps, apart."""
    space, data = space_of(given), batches(given.batches, given)
    network = space.build().eval().requires_grad_(False)
    archs = [space.sample(seed) for seed in range(given.scored)]
    rounds = []
    for _ in range(given.rounds):
        yardstick = matmul_seconds()
        seconds = mean(cpu_seconds(partial(score, space, network, arch, data)) for arch in archs)
        rounds.append((seconds / yardstick, seconds))
    subnet = mn.extract(network, archs[0], space.example(archs[0], batch=1), share=True)
    multiple, seconds = sorted(rounds)[len(rounds) // 2]
    return {
        "score": multiple,
        "score_seconds": seconds,
        "score_rounds": [multiple for multiple, _ in rounds],
        "finetune_seconds": cpu_seconds(lambda: with_tuned_head(subnet, space, data, 0.04)),
    }


def score(
    space: mn.SearchSpace, network: nn.Module, arch: mn.Architecture, data: list[Batch]
) -> dict[str, float]:
    """What an evaluator does for one candidate."""
    subnet = mn.extract(network, arch, space.example(arch, batch=1), share=True)
    with torch.inference_mode():
        rows = [space.task.rows(subnet(*batch.inputs), batch.targets) for batch in data]
    return space.task.metrics(torch.cat(rows))


def overheads(given: Namespace) -> dict[str, float]:
    """A subnet through the supernet over the same subnet extracted: medians over paths, side by side."""
    space, settings = space_of(given), settings_of(given)
    network = space.build()
    (batch,) = batches(1, given)
    ratios: dict[str, list[float]] = {"inference": [], "training": []}
    for seed in range(given.compared):
        arch = space.sample(seed)
        subnet = mn.extract(network, arch, space.example(arch, batch=1))
        inside = Learner(network, space, OnePath(arch), settings)
        alone = Learner(subnet, space, FineTune(), settings)
        with torch.inference_mode():
            ratios["inference"].append(
                median_ratio(
                    partial(network, *batch.inputs, arch=arch), partial(subnet, *batch.inputs), given.repeats
                )
            )
        ratios["training"].append(
            median_ratio(partial(inside.train_on, batch), partial(alone.train_on, batch), given.repeats)
        )
    return {
        "inference": median(ratios["inference"]),
        "training": median(ratios["training"]),
        "inference_most": max(ratios["inference"]),
        "training_most": max(ratios["training"]),
    }


def peak_of_training(given: Namespace) -> float:
    """Peak resident megabytes of a process that does the training steps."""
    start()
    step_seconds(given)
    return peak_megabytes()


if __name__ == "__main__":
    run(main, file=__file__, about=__doc__, options=OPTIONS, bars=BARS)
