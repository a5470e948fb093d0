"""How much faster two training workers are than one: images a second of a sandwich step.

Each worker trains ``search_spaces.vit:deit_scaling`` at 160 pixels on 16 images of its own with one
thread; a step trains the largest, the smallest and two random subnets, averages gradients once, clips
and updates. Perfect scaling is 2.0.

    python benchmarks/two_workers.py
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
from ray import tune
from ray.train import LoggingConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from support.frame import Option, at_least, run, show
from support.processes import local_ray
from torch import distributed as dist

from manynet.config.settings import TrainSettings
from manynet.data import Batch
from manynet.learning.learner import Learner
from manynet.search_spaces.vit import deit_scaling
from manynet.space.search_space import SearchSpace
from manynet.trainers.sandwich import Sandwich

CLASSES = 1000
OPTIONS = (
    Option("--images", 16, "of each worker", quick=1),
    Option("--pixels", 160),
    Option("--warm-up", 2, "steps that do not count", quick=0),
    Option("--steps", 12, quick=1),
)
BARS = {"ratio": at_least(1.6)}


def main(given: Namespace) -> dict[str, float]:
    """Measure in two workers of Ray Train."""
    sizes = {name: vars(given)[name] for name in ("images", "pixels", "warm_up", "steps")}
    with local_ray(2), tempfile.TemporaryDirectory() as folder:
        trainer = TorchTrainer(
            measure,
            train_loop_config={**sizes, "output": f"{folder}/seconds.json"},
            scaling_config=ScalingConfig(num_workers=2, resources_per_worker={"CPU": 1}),
            run_config=RunConfig(  # type: ignore[call-arg]
                storage_path=folder, name="two-workers", logging_config=LoggingConfig(log_level="ERROR")
            ),
        )
        trainer.fit()
        seconds: dict[str, list[float]] = json.loads((Path(folder) / "seconds.json").read_text())
    one, two, average = (statistics.median(seconds[name]) for name in ("one", "two", "average"))
    images = given.images
    show(
        f"sandwich of four, {given.pixels} pixels; averaging takes {average:.3f} s",
        ("workers", "seconds a step", "images a second"),
        [("1", f"{one:.2f}", f"{images / one:.2f}"), ("2", f"{two:.2f}", f"{2 * images / two:.2f}")],
    )
    # Both sides draw the same architectures at the same step, so steps are compared in pairs.
    pairs = zip(seconds["one"], seconds["two"], strict=True)
    return {
        "ratio": statistics.median(2 * alone / both for alone, both in pairs),
        "one_images_per_second": images / one,
        "two_images_per_second": 2 * images / two,
        "average_seconds": average,
    }


def measure(config: dict[str, Any]) -> None:
    """Write the seconds of each step: one worker's turn, then both, so that both meet the same machine."""
    torch.set_num_threads(1)
    rank = dist.get_rank()
    group = dist.new_group([0])
    space = at_one_resolution(config["pixels"])
    alone = learner(space, rank, group) if rank == 0 else None
    together = learner(space, rank, None)
    batch = random_images(config["images"], config["pixels"], rank)
    seconds: dict[str, list[float]] = {"one": [], "two": [], "average": []}
    for _ in range(config["warm_up"] + config["steps"]):
        seconds["one"].append(timed(alone, batch))
        seconds["two"].append(timed(together, batch))
        start = time.perf_counter()
        together.gradients.average()
        seconds["average"].append(time.perf_counter() - start)
    if rank == 0:
        counted = {name: values[config["warm_up"] :] for name, values in seconds.items()}
        Path(config["output"]).write_text(json.dumps(counted))


def timed(trained: Learner | None, batch: Batch) -> float:
    """Seconds of one step, until the last worker is done."""
    dist.barrier()
    start = time.perf_counter()
    if trained is not None:
        trained.train_on(batch)
    dist.barrier()
    return time.perf_counter() - start


def learner(space: SearchSpace, rank: int, group: dist.ProcessGroup | None) -> Learner:
    """Equal weights and equal draws on every worker and for both measurements."""
    torch.manual_seed(0)
    return Learner(space.build(), space, Sandwich(samples=2), TrainSettings(steps=100), rank, group)


def at_one_resolution(pixels: int) -> SearchSpace:
    """The preset at one resolution, so that steps cost alike."""
    return SearchSpace(
        f"deit-scaling-{pixels}",
        {**deit_scaling.domains, "resolution": tune.choice([pixels])},
        deit_scaling.build,
        deit_scaling.task,
        (3, pixels, pixels),
    )


def random_images(count: int, pixels: int, rank: int) -> Batch:
    """A worker's batch."""
    generator = torch.Generator().manual_seed(rank)
    images = torch.randn(count, 3, pixels, pixels, generator=generator)
    return Batch((images,), torch.randint(CLASSES, (count,), generator=generator))


if __name__ == "__main__":
    run(main, file=__file__, about=__doc__, options=OPTIONS, bars=BARS)
