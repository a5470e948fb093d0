"""Two Ray Train workers with sharded embedding tables against one worker: equal joint batches and steps.

NASRec's tiny space on late flights, three seeds each. Both must reach the same validation log loss, to noise: the
joint batches and the paths drawn are the same, but the tables' updates are added up in another order.

    python benchmarks/sharded_tables.py [--seeds 3] [--steps 600]
"""

from __future__ import annotations

import tempfile
from argparse import Namespace
from statistics import mean

from support.frame import Option, at_most, run, show
from support.processes import local_ray

from manynet.config.settings import TrainSettings
from manynet.search_spaces import nasrec
from manynet.space.fitting import fit_together
from manynet.training.runs import train_supernet

METRICS = ("largest/log_loss", "smallest/log_loss")
OPTIONS = (
    Option("--seeds", 3, quick=1),
    Option("--steps", 600, quick=2),
    Option("--workers", (1, 2), "the first is compared with", quick=(2,)),
)
BARS = {"largest_mean_gap": at_most(0.01)}


def main(given: Namespace) -> dict[str, float | None]:
    """Train with one worker and with two."""
    with local_ray(2):
        found = {
            workers: [trained(workers, seed, given.steps) for seed in range(given.seeds)]
            for workers in given.workers
        }
    first, last = found[given.workers[0]], found[given.workers[-1]]
    gaps = {m: [two[m] - one[m] for one, two in zip(first, last, strict=True)] for m in METRICS}
    rows = [
        (f"{workers} worker(s)", *(losses([row[m] for row in rows]) for m in METRICS), seconds(rows))
        for workers, rows in found.items()
    ]
    differences = [", ".join(f"{gap:+.4f}" for gap in gaps[m]) for m in METRICS]
    show("by seed", ("", *METRICS, "s"), [*rows, None, ("last less first", *differences, "")])
    # One number of workers beside itself would tell nothing.
    compared = first is not last
    return {
        "largest_mean_gap": max(abs(mean(values)) for values in gaps.values()) if compared else None,
        "largest_gap": max(abs(gap) for values in gaps.values() for gap in values) if compared else None,
        "seconds_of_first": mean(row["seconds"] for row in first),
        "seconds_of_last": mean(row["seconds"] for row in last),
    }


def losses(values: list[float]) -> str:
    """As a cell."""
    return ", ".join(f"{value:.4f}" for value in values)


def seconds(rows: list[dict[str, float]]) -> str:
    """As a cell: the mean."""
    return f"{mean(row['seconds'] for row in rows):.0f}"


def trained(workers: int, seed: int, steps: int) -> dict[str, float]:
    """The last validation of one training, and its seconds after the workers have started."""
    space, data = fit_together(nasrec.tiny, "flights")
    settings = TrainSettings(
        strategy="trainers.any_connection:AnyConnection",
        optimizer="adagrad",
        learning_rate=0.03,
        gradient_clip=5.0,
        ema=0,
        steps=steps,
        batch_size=512,
        workers=workers,
        evaluate_every=steps,
        checkpoint_every=steps,
        seed=seed,
    )
    with tempfile.TemporaryDirectory() as folder:
        result = train_supernet(space, data, settings, folder)
    return {metric: result.curves[-1][metric] for metric in METRICS} | {"seconds": result.seconds}


if __name__ == "__main__":
    run(main, file=__file__, about=__doc__, options=OPTIONS, bars=BARS)
