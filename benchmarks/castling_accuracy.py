"""What linear-angular attention costs or gains in accuracy, part by part, against softmax attention.

One vision transformer (65 tokens: 32 x 32 pixels, patches of 4; 4 blocks of width 48, 4 heads of 16) is trained alone
from random weights with each attention in all of its blocks: softmax; linear-angular with either constant term, alone,
with a depthwise convolution of the values, and with that and the auxiliary masked-softmax branch of Castling-ViT (arXiv
2211.10526), which is closed after 80 % of the run. Epochs, recipe and seeds are the same for all.

    python benchmarks/castling_accuracy.py [--data digits] [--epochs 30] [--batch 64] [--seeds 3] [--folder FOLDER]

Started again with the same folder, it goes on. There are no bars.
"""

from __future__ import annotations

import os
import tempfile
from argparse import Namespace
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from support.frame import Option, run, show
from support.processes import local_ray

import manynet as mn
from manynet.config.settings import TrainSettings
from manynet.data import Data
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
OPTIONS = (
    Option("--data", "digits", "as an experiment file names it"),
    Option("--epochs", 30.0, quick=0.1),
    Option("--attentions", 9, "compared, at most", quick=1),
    Option("--batch", 64),
    Option("--seeds", 3, quick=1),
    Option("--folder", "", "of what was trained before; by default nothing is kept"),
)
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
        angular: dict[str, Any] = {} if self.angular is None else {"angular": self.angular}
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


def main(given: Namespace) -> dict[str, Any]:
    """Train all, each seed alone."""
    # Each starts workers, so a quick run has the one with most parts alone.
    compared = [one for one in contenders() if not given.quick or one.strategy == CASTLING][
        : given.attentions
    ]
    found = {}
    with local_ray(os.cpu_count() or 1), tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or temporary
        for number, contender in enumerate(compared):
            space, images = fit_together(contender.space(f"castling-accuracy-{number}"), given.data)
            found[contender.name] = accuracies(contender, space, images, given, f"{folder}/{number}")
            print(contender.name, found[contender.name], flush=True)
    show(
        f"Test accuracy on {given.data}",
        ("attention", "mean", "range", "beside the first"),
        [row(name, scores, next(iter(found.values()))) for name, scores in found.items()],
    )
    return {"test_accuracy": found}


def accuracies(
    contender: Contender, space: mn.SearchSpace, images: Data, given: Namespace, folder: str
) -> list[float]:
    """Test accuracy of each seed."""
    steps = round(given.epochs * len(images.train) / given.batch)
    recipe = TrainSettings(
        strategy=contender.strategy, steps=steps, batch_size=given.batch, learning_rate=2e-3, workers=0,
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


def row(name: str, scores: list[float], first: list[float]) -> tuple[str, ...]:
    """Mean and range, and whether the range is apart from that of the first, softmax."""
    apart = "better" if min(scores) > max(first) else "worse" if max(scores) < min(first) else "overlaps"
    beside = "" if scores is first else f"{fmean(scores) - fmean(first):+.4f}, {apart}"
    return name, f"{fmean(scores):.4f}", f"{min(scores):.4f} to {max(scores):.4f}", beside


if __name__ == "__main__":
    run(main, file=__file__, about=__doc__, options=OPTIONS)
