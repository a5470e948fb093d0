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
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray import tune
from ray.train import LoggingConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from rich.console import Console
from rich.table import Table
from torch import distributed as dist

from manynet.config.settings import TrainSettings
from manynet.data import Batch
from manynet.learning.learner import Learner
from manynet.search_spaces.vit import deit_scaling
from manynet.space.search_space import SearchSpace
from manynet.trainers.sandwich import Sandwich

BAR, FLOOR = 1.6, 2.0
IMAGES, PIXELS, CLASSES = 16, 160, 1000
WARM_UP, STEPS = 2, 12


def main() -> None:
    """Measure, print a table, then one JSON line."""
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    with tempfile.TemporaryDirectory() as folder:
        trainer = TorchTrainer(
            measure,
            train_loop_config={"output": f"{folder}/seconds.json"},
            scaling_config=ScalingConfig(num_workers=2, resources_per_worker={"CPU": 1}),
            run_config=RunConfig(  # type: ignore[call-arg]
                storage_path=folder, name="two-workers", logging_config=LoggingConfig(log_level="ERROR")
            ),
        )
        trainer.fit()
        show(json.loads((Path(folder) / "seconds.json").read_text()))


def measure(config: dict[str, str]) -> None:
    """Write the seconds of each step: one worker's turn, then both, so that both meet the same machine."""
    torch.set_num_threads(1)
    rank = dist.get_rank()
    group = dist.new_group([0])
    space = at_one_resolution()
    alone = learner(space, rank, group) if rank == 0 else None
    together = learner(space, rank, None)
    batch = random_images(rank)
    seconds: dict[str, list[float]] = {"one": [], "two": [], "average": []}
    for _ in range(WARM_UP + STEPS):
        seconds["one"].append(timed(alone, batch))
        seconds["two"].append(timed(together, batch))
        start = time.perf_counter()
        together.gradients.average()
        seconds["average"].append(time.perf_counter() - start)
    if rank == 0:
        Path(config["output"]).write_text(json.dumps({name: v[WARM_UP:] for name, v in seconds.items()}))


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


def at_one_resolution() -> SearchSpace:
    """The preset at 160 pixels, so that steps cost alike."""
    return SearchSpace(
        "deit-scaling-160",
        {**deit_scaling.domains, "resolution": tune.choice([PIXELS])},
        deit_scaling.build,
        deit_scaling.task,
        (3, PIXELS, PIXELS),
    )


def random_images(rank: int) -> Batch:
    """A worker's batch."""
    generator = torch.Generator().manual_seed(rank)
    images = torch.randn(IMAGES, 3, PIXELS, PIXELS, generator=generator)
    return Batch((images,), torch.randint(CLASSES, (IMAGES,), generator=generator))


def show(seconds: dict[str, list[float]]) -> None:
    """Print the table and the line for scripts."""
    one, two, average = (statistics.median(seconds[name]) for name in ("one", "two", "average"))
    # Both sides draw the same architectures at the same step, so steps are compared in pairs.
    ratio = statistics.median(
        2 * alone / both for alone, both in zip(seconds["one"], seconds["two"], strict=True)
    )
    table = Table("workers", "seconds a step", "images a second", title=f"sandwich of four, {PIXELS} pixels")
    table.add_row("1", f"{one:.2f}", f"{IMAGES / one:.2f}")
    table.add_row("2", f"{two:.2f}", f"{2 * IMAGES / two:.2f}")
    console = Console()
    console.print(table)
    console.print(
        f"two workers / one: {ratio:.2f} (perfect {FLOOR}, bar {BAR}); averaging takes {average:.3f} s"
    )
    figures: dict[str, Any] = {
        "ratio": round(ratio, 3),
        "one_images_per_second": round(IMAGES / one, 3),
        "two_images_per_second": round(2 * IMAGES / two, 3),
        "average_seconds": round(average, 4),
        "steps": STEPS,
    }
    print(
        json.dumps(
            {"benchmark": "two_workers", "figures": figures, "bars": {"ratio": BAR}, "pass": ratio >= BAR}
        )
    )


if __name__ == "__main__":
    main()
