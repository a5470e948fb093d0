"""Two Ray Train workers with sharded embedding tables against one worker: equal joint batches and steps.

NASRec's tiny space on late flights, three seeds each. Both must reach the same validation log loss, to noise: the
joint batches and the paths drawn are the same, but the tables' updates are added up in another order.

Run with ``python benchmarks/sharded_tables.py``.
"""

from __future__ import annotations

import json
import tempfile
from statistics import mean, stdev

import ray

from manynet.config.settings import TrainSettings
from manynet.search_spaces import nasrec
from manynet.space.fitting import fit_together
from manynet.training.runs import train_supernet

SEEDS, STEPS = range(3), 600
METRICS = ("largest/log_loss", "smallest/log_loss")


def main() -> None:
    """Measure, print a table, then one JSON line."""
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    found = {workers: [trained(workers, seed) for seed in SEEDS] for workers in (1, 2)}
    for workers, rows in found.items():
        losses = ", ".join(
            f"{m} {mean(r[m] for r in rows):.4f} +- {stdev(r[m] for r in rows):.4f}" for m in METRICS
        )
        print(f"{workers} worker(s): {losses}, {mean(r['seconds'] for r in rows):.0f} s")
    gaps = {m: [two[m] - one[m] for one, two in zip(found[1], found[2], strict=True)] for m in METRICS}
    for metric, values in gaps.items():
        print(f"{metric}: two less one, by seed: {', '.join(f'{value:+.4f}' for value in values)}")
    print(json.dumps({"found": found, "gaps": gaps}))


def trained(workers: int, seed: int) -> dict[str, float]:
    """The last validation of one training, and its seconds after the workers have started."""
    space, data = fit_together(nasrec.tiny, "flights")
    settings = TrainSettings(
        strategy="trainers.any_connection:AnyConnection",
        optimizer="adagrad",
        learning_rate=0.03,
        gradient_clip=5.0,
        ema=0,
        steps=STEPS,
        batch_size=512,
        workers=workers,
        evaluate_every=STEPS,
        checkpoint_every=STEPS,
        seed=seed,
    )
    with tempfile.TemporaryDirectory() as folder:
        result = train_supernet(space, data, settings, folder)
    return {metric: result.curves[-1][metric] for metric in METRICS} | {"seconds": result.seconds}


if __name__ == "__main__":
    main()
