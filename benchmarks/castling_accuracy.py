"""What linear-angular attention costs or gains in accuracy, part by part, against softmax attention.

One vision transformer (65 tokens: 32 x 32 pixels, patches of 4; 4 blocks of width 48, 4 heads of 16) is trained alone
from random weights with each attention in all of its blocks: softmax; linear-angular with either constant term, alone,
with a depthwise convolution of the values, and with that and the auxiliary masked-softmax branch of Castling-ViT (arXiv
2211.10526), which is closed after 80 % of the run. Epochs, recipe and seeds are the same for all.

    python benchmarks/castling_accuracy.py [--data digits] [--epochs 30] [--batch 64] [--seeds 3] [--folder FOLDER]

Started again with the same folder, it goes on.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.table import Table

import manynet as mn
from manynet.config.settings import TrainSettings
from manynet.data import Data
from manynet.runtime.ray_session import connect
from manynet.search_spaces import vit
from manynet.space.evaluation import score
from manynet.space.fitting import fit_together
from manynet.training import runs as training

SHAPE: dict[str, Any] = {
    "resolution": 32,
    "patch_size": 4,
    "depth": 4,
    "width": 48,
    "heads": 4,
    "mlp_ratio": 4,
}
BRANCHES = {"none": "alone", "taps": "with 9 taps", "grid": "with depthwise 3 x 3"}
ALONE, CASTLING = "trainers.finetune:FineTune", "trainers.castling:CastlingFineTune"


@dataclass(frozen=True)
class Contender:
    """An attention, and the strategy that trains it.

    Attributes:
        name: as the table tells it.
        attention: kind, in every block.
        angular: options of linear-angular attention.
        strategy: of training.
    """

    name: str
    attention: str = "softmax"
    angular: Mapping[str, str] | None = None
    strategy: str = ALONE

    def space(self, name: str) -> mn.SearchSpace:
        """A space of this one network, called ``name``."""
        options: dict[str, Any] = {key: (value,) for key, value in SHAPE.items()}
        angular = {} if self.angular is None else {"angular": self.angular}
        return vit.space(
            name, **options, head_dim=16, channels=1, classes=10, attention=(self.attention,), **angular
        )


def contenders() -> Iterator[Contender]:
    """All that are compared."""
    yield Contender("softmax")
    for branch, told in BRANCHES.items():
        for constant in ("released", "exact"):
            angular = {"constant": constant, "branch": branch}
            yield Contender(f"{told}, {constant} constant", "linear-angular", angular)
            if branch == "grid":
                name = f"{told}, auxiliary branch, {constant} constant"
                yield Contender(name, "linear-angular", angular, CASTLING)


def main() -> None:
    """Train, print a table, then one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="digits", help="as an experiment file names it")
    parser.add_argument("--epochs", type=float, default=30)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--folder", default="", help="of what was trained before; by default nothing is kept")
    given = parser.parse_args()
    connect()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or temporary
        found = {}
        for number, contender in enumerate(contenders()):
            space, images = fit_together(contender.space(f"castling-accuracy-{number}"), given.data)
            found[contender.name] = accuracies(contender, space, images, given, f"{folder}/{number}")
            print(contender.name, found[contender.name], flush=True)
    show(found, given.data)
    print(json.dumps({"benchmark": "castling_accuracy", **vars(given), "test_accuracy": found}))


def accuracies(
    contender: Contender, space: mn.SearchSpace, images: Data, given: argparse.Namespace, folder: str
) -> list[float]:
    """Test accuracy of each seed."""
    steps = round(given.epochs * len(images.train) / given.batch)
    recipe = TrainSettings(
        strategy=contender.strategy, steps=steps, batch_size=given.batch, learning_rate=2e-3,
        evaluate_every=steps, checkpoint_every=steps,
    )  # fmt: skip
    arch = space.canonical(SHAPE)
    jobs = [
        training.SubnetJob(f"seed{seed}", arch, recipe.model_copy(update={"seed": seed}))
        for seed in range(given.seeds)
    ]
    trained = training.train_subnets(jobs, space, images, folder)
    subnets = (training.load_subnet(space, arch, trained[job.key]) for job in jobs)
    return [score(subnet, space, images.test, batch_size=256)["accuracy"] for subnet in subnets]


def show(found: Mapping[str, list[float]], name: str) -> None:
    """Print the means, their ranges, and whether each range is apart from that of softmax."""
    table = Table(title=f"Test accuracy on {name}")
    for column in ("attention", "mean", "range", "beside softmax"):
        table.add_column(column)
    softmax = found["softmax"]
    for contender, scores in found.items():
        apart = (
            "better" if min(scores) > max(softmax) else "worse" if max(scores) < min(softmax) else "overlaps"
        )
        beside = "" if contender == "softmax" else f"{fmean(scores) - fmean(softmax):+.4f}, {apart}"
        table.add_row(contender, f"{fmean(scores):.4f}", f"{min(scores):.4f} to {max(scores):.4f}", beside)
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
