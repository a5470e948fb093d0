"""NASRec's full space on one thread, against what its authors released.

Seven blocks, 26 tables of 10 000 rows, 16 features a token, 13 dense features, batch 512. CPU seconds, and the
same as multiples of a 1024 x 1024 float32 matrix product on the same thread, which carry to other machines. The
figures of the released code were taken on another machine, and so are compared as multiples.

Run with ``python benchmarks/nasrec.py``.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch

import manynet as mn
from manynet.config.settings import TrainSettings
from manynet.data import Batch
from manynet.data.features import Categorical, Features
from manynet.learning.head_tuning import with_tuned_head
from manynet.learning.learner import Learner
from manynet.learning.strategy import Step, Strategy
from manynet.runtime.malloc import keep_freed_memory
from manynet.search_spaces import nasrec
from manynet.trainers.any_connection import AnyConnection
from manynet.trainers.finetune import FineTune

ROWS, BATCH, PATHS, SCORED, BATCHES, ROUNDS = 10_000, 512, 20, 4, 50, 5
RELEASED = {"step": 101.0, "score": 2050.0, "megabytes": 2900.0}
BARS = {"step": 16.0, "score": 185.0, "inference": 1.05, "training": 1.3, "megabytes": 1800.0}
FEATURES = Features(
    tuple(f"I{number}" for number in range(13)),
    tuple(Categorical(f"C{number}", ROWS) for number in range(26)),
)
SETTINGS = TrainSettings(
    optimizer="adagrad", learning_rate=0.12, warmup=0, gradient_clip=5.0, ema=0, batch_size=BATCH, steps=10**6
)
space = nasrec.full.fitted(FEATURES)


def main() -> None:
    """Measure, print a table, then one JSON line."""
    keep_freed_memory()
    if sys.argv[1:] == ["memory"]:
        print(json.dumps(peak_of_training()))
        return
    torch.set_num_threads(1)
    torch.manual_seed(0)
    found = {**step_seconds(), **score_seconds(), **overheads()}
    found["megabytes"] = in_own_process()
    show(found)
    print(json.dumps(found))


def matmul_seconds(times: int = 10) -> float:
    """CPU seconds of the yardstick."""
    first, second = torch.randn(1024, 1024), torch.randn(1024, 1024)
    return median(cpu_seconds(lambda: first @ second) for _ in range(times))


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU seconds of one call."""
    start = time.process_time()
    work()
    return time.process_time() - start


def batches(count: int) -> list[Batch]:
    """Made batches, in memory."""
    generator = torch.Generator().manual_seed(0)
    return [
        Batch(
            (
                torch.randn(BATCH, 13, generator=generator).abs(),
                torch.randint(0, ROWS, (BATCH, 26), generator=generator),
            ),
            (torch.rand(BATCH, generator=generator) < 0.25).float(),
        )
        for _ in range(count)
    ]


def step_seconds() -> dict[str, float]:
    """Forward, backward, clip and optimizer, embeddings included; yardsticks in between."""
    trained = Learner(space.build(), space, AnyConnection(warmup=0.0), SETTINGS)
    (batch,) = batches(1)
    trained.train_on(batch)
    trained.step = 0
    seconds, yardsticks = [], []
    for _ in range(PATHS):
        yardsticks.append(matmul_seconds(3))
        seconds.append(cpu_seconds(lambda: trained.train_on(batch)))
    return {"step_seconds": mean(seconds), "step": mean(seconds) / mean(yardsticks)}


def score_seconds() -> dict[str, Any]:
    """Extraction, 50 batches, AUC and log loss: the median of some rounds, because a busy host slows memory down
    more than arithmetic; and fine-tuning for as many steps, apart."""
    network, data = space.build().eval().requires_grad_(False), batches(BATCHES)
    archs = [space.sample(seed) for seed in range(SCORED)]
    rounds = []
    for _ in range(ROUNDS):
        yardstick = matmul_seconds()
        seconds = mean(cpu_seconds(lambda arch=arch: score(network, arch, data)) for arch in archs)
        rounds.append((seconds / yardstick, seconds))
    subnet = mn.extract(network, archs[0], space.example(archs[0], batch=1), share=True)
    ratio_, seconds = sorted(rounds)[ROUNDS // 2]
    return {
        "score": ratio_,
        "score_seconds": seconds,
        "score_rounds": [round(r, 1) for r, _ in rounds],
        "finetune_seconds_of_50_steps": cpu_seconds(lambda: with_tuned_head(subnet, space, data, 0.04)),
    }


def score(network: torch.nn.Module, arch: mn.Architecture, data: list[Batch]) -> dict[str, float]:
    """What an evaluator does for one candidate."""
    subnet = mn.extract(network, arch, space.example(arch, batch=1), share=True)
    with torch.inference_mode():
        rows = [space.task.rows(subnet(*batch.inputs), batch.targets) for batch in data]
    return space.task.metrics(torch.cat(rows))


def overheads() -> dict[str, float]:
    """A subnet through the supernet over the same subnet extracted: medians over paths, side by side."""
    network = space.build()
    (batch,) = batches(1)
    ratios: dict[str, list[float]] = {"inference": [], "training": []}
    for seed in range(10):
        arch = space.sample(seed)
        subnet = mn.extract(network, arch, space.example(arch, batch=1))
        inside = Learner(network, space, OnePath(arch), SETTINGS)
        alone = Learner(subnet, space, FineTune(), SETTINGS)
        with torch.inference_mode():
            ratios["inference"].append(
                ratio(lambda a=arch: network(*batch.inputs, arch=a), lambda s=subnet: s(*batch.inputs))
            )
        ratios["training"].append(
            ratio(lambda one=inside: one.train_on(batch), lambda one=alone: one.train_on(batch))
        )
    return {
        "inference": median(ratios["inference"]),
        "training": median(ratios["training"]),
        "inference_most": max(ratios["inference"]),
        "training_most": max(ratios["training"]),
    }


@dataclass(frozen=True)
class OnePath(Strategy):
    """Trains one architecture inside the supernet."""

    arch: mn.Architecture

    def backward(self, network: torch.nn.Module, batch: Batch, step: Step) -> dict[str, torch.Tensor]:
        loss = space.task.loss(network(*batch.inputs, arch=self.arch), batch.targets, 0.0)
        torch.autograd.backward(loss)
        return {"loss": loss.detach()}


def ratio(first: Callable[[], object], second: Callable[[], object], times: int = 7) -> float:
    """Median CPU seconds of one over those of the other, taken in turns."""
    first(), second()
    pairs = [(cpu_seconds(first), cpu_seconds(second)) for _ in range(times)]
    return median(one for one, _ in pairs) / median(two for _, two in pairs)


def in_own_process() -> float:
    """Peak resident megabytes of a fresh process that does the training steps."""
    done = subprocess.run([sys.executable, __file__, "memory"], check=True, capture_output=True, text=True)
    return float(json.loads(done.stdout.splitlines()[-1]))


def peak_of_training() -> float:
    torch.set_num_threads(1)
    step_seconds()
    # Not getrusage's figure, which begins at that of the process that started this one.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 1e3


def show(found: dict[str, Any]) -> None:
    """Print each bar beside what was measured."""
    units = {"step": "matmuls", "score": "matmuls", "megabytes": "MB"}
    for name, bar in BARS.items():
        released = f"{RELEASED[name]:9.0f}" if name in RELEASED else " " * 9
        seconds = f"{found[f'{name}_seconds']:6.2f} s" if f"{name}_seconds" in found else " " * 8
        print(
            f"{name:12} {found[name]:9.2f} {units.get(name, 'x'):8} {seconds}  bar {bar:8.2f}  released {released}"
        )
    print(f"scores by round: {found['score_rounds']}")
    print(f"50 steps of fine-tuning: {found['finetune_seconds_of_50_steps']:.2f} s")


if __name__ == "__main__":
    main()
