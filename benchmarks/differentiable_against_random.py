"""Differentiable search against random search, at equal CPU seconds and equal cost of the nets they find.

On ``search_spaces.dmasking:tiny``, for each target and seed: a search for the target and the training of what it
found, from random weights or from the search's own (``--start``); then nets drawn at random within a tenth of the target,
each trained by the same recipe, until as many seconds are spent, of which the best on the validation split counts. A seed also draws the splits of
data that name none. Every winner sees the test split once.

    python benchmarks/differentiable_against_random.py [--data idx:/path] [--targets 150e3 300e3 600e3]
"""

from __future__ import annotations

import math
import statistics
from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from support.equal_cost import Alone, Spent, Terms, affordable, search_options
from support.frame import Option, at_least, at_most, run, show

from manynet import data
from manynet.config.settings import TrainSettings
from manynet.runtime.malloc import keep_freed_memory
from manynet.search_spaces.dmasking import tiny
from manynet.trainers.differentiable import Differentiable

NEAR = 0.1
OPTIONS = (
    Option("--data", "digits"),
    Option("--targets", (150e3, 300e3, 600e3), "multiply-adds", quick=(300e3,)),
    Option("--steps", 90, "of a differentiable search", quick=3),
    Option("--retrain-steps", 200, "of every net trained alone", quick=2),
    Option("--start", "random", "weights that nets found are trained from", choices=("random", "shared")),
    Option("--augment", "shift", choices=("none", "shift")),
    Option("--batch-size", 32, quick=16),
    Option("--learning-rate", 5e-3, "of weights, everywhere"),
    Option("--validation-examples", 2000, "that nets are chosen by, at most", quick=64),
    Option("--seeds", 3, quick=1),
)
BARS = {
    "share_of_found_near_target": at_least(1.0),
    # Or the comparison would not be of equal cost.
    "seconds_of_random_over_found": at_most(1.1),
    "mean_difference": at_least(0.0),
}


@dataclass(frozen=True)
class Pair:
    """What both found for one target and seed.

    Attributes:
        target: multiply-adds asked for.
        seed: of both.
        found, drawn: the net of the differentiable search, and the best of those drawn at random.
        tests: their test accuracies.
        seconds: CPU seconds that each search took in all.
        tried: nets that random search trained.
        certainty: probability of the likeliest option at the end of the search, mean over choices.
    """

    target: float
    seed: int
    found: Alone
    drawn: Alone
    tests: tuple[float, float]
    seconds: tuple[float, float]
    tried: int
    certainty: float

    @property
    def near(self) -> bool:
        """Whether what was found costs what was asked."""
        return abs(self.found.macs / self.target - 1) <= NEAR

    @property
    def difference(self) -> float:
        """Of test accuracies, found less drawn."""
        return self.tests[0] - self.tests[1]


def main(given: Namespace) -> dict[str, float]:
    """Compare on every target and seed."""
    torch.set_num_threads(1)
    keep_freed_memory()
    pairs = []
    for seed in range(given.seeds):
        loaded = data.load(given.data, channels=1, image_size=28, seed=seed)
        terms = Terms(tiny, loaded, recipe(given, given.retrain_steps, seed), given.validation_examples)
        settings = recipe(given, given.steps, seed)
        pairs += [compared(terms, settings, target, given.start) for target in given.targets]
    title = f"Differentiable and random search at equal CPU seconds, {given.data}, nets from {given.start} weights"
    columns = ("target MACs", "seed", "found", "within 10%", "drawn", "test of found", "test of drawn")
    show(title, (*columns, "CPU s", "nets drawn", "certainty"), [row(pair) for pair in pairs])
    found = figures(pairs)
    print(sentence(found))
    return found


def recipe(given: Namespace, steps: int, seed: int) -> TrainSettings:
    """How weights are trained; searches and nets alone differ in the number of steps only."""
    return TrainSettings(
        steps=steps,
        batch_size=given.batch_size,
        learning_rate=given.learning_rate,
        augment=given.augment,
        seed=seed,
    )


def compared(terms: Terms, settings: TrainSettings, target: float, start: str) -> Pair:
    """Search, then let random search spend as much."""
    strategy, spent = Differentiable(target=target, **search_options(settings.steps)), Spent()
    with spent.on("search"):
        supernet = terms.learnt(terms.supernet(), strategy, settings).averaged()
    with spent.on("training"):
        found = terms.alone(strategy.found(), supernet if start == "shared" else None)
    nets, spent_by_random = random_search(terms, target, spent.total)
    drawn = max(nets, key=lambda net: net.merit)
    certainty = statistics.mean(float(logit.detach().softmax(0).max()) for logit in strategy.logits.values())
    return Pair(
        target,
        settings.seed,
        found,
        drawn,
        (terms.tested(found), terms.tested(drawn)),
        (spent.total, spent_by_random.total),
        len(nets),
        certainty,
    )


def random_search(terms: Terms, target: float, budget: float) -> tuple[list[Alone], Spent]:
    """Nets drawn within a tenth of the target, each trained alone, for ``budget`` CPU seconds."""
    spent, nets = Spent(), list[Alone]()
    draws = near(terms, target)
    while affordable(spent, budget, len(nets), "training"):
        with spent.on("drawing"):
            arch = next(draws)
        with spent.on("training"):
            nets.append(terms.alone(arch))
    return nets, spent


def near(terms: Terms, target: float) -> Iterator[dict[str, Any]]:
    """Architectures drawn from the space that cost about ``target``."""
    random = np.random.default_rng([terms.recipe.seed, round(target)])
    while True:
        arch = terms.space.draw(random)
        if abs(terms.space.read(arch).macs / target - 1) <= NEAR:
            yield terms.space.canonical(arch)


def row(pair: Pair) -> tuple[str, ...]:
    """Of the table."""
    return (
        f"{pair.target:,.0f}",
        str(pair.seed),
        f"{pair.found.macs:,}",
        "yes" if pair.near else "no",
        f"{pair.drawn.macs:,}",
        *(f"{test:.4f}" for test in pair.tests),
        "/".join(f"{seconds:.1f}" for seconds in pair.seconds),
        str(pair.tried),
        f"{pair.certainty:.2f}",
    )


def figures(pairs: Sequence[Pair]) -> dict[str, float]:
    """Over all targets and seeds."""
    differences = [pair.difference for pair in pairs]
    error = statistics.stdev(differences) / math.sqrt(len(pairs)) if len(pairs) > 1 else math.inf
    return {
        "share_of_found_near_target": statistics.mean(pair.near for pair in pairs),
        "seconds_of_random_over_found": sum(p.seconds[1] for p in pairs) / sum(p.seconds[0] for p in pairs),
        "test_of_found": statistics.mean(pair.tests[0] for pair in pairs),
        "test_of_drawn": statistics.mean(pair.tests[1] for pair in pairs),
        "mean_difference": statistics.mean(differences),
        "standard_error": error,
        "wins": sum(difference > 0 for difference in differences),
        "ties": sum(difference == 0 for difference in differences),
        "losses": sum(difference < 0 for difference in differences),
        "nets_drawn": statistics.mean(pair.tried for pair in pairs),
        "certainty": statistics.mean(pair.certainty for pair in pairs),
    }


def sentence(found: dict[str, float]) -> str:
    """What the figures say, and whether they are enough to say it."""
    mean, error = 100 * found["mean_difference"], 100 * found["standard_error"]
    verdict = "more than" if abs(mean) > 2 * error else "within"
    return (
        f"Differentiable search won {found['wins']}, tied {found['ties']} and lost {found['losses']}: "
        f"{mean:+.2f} points of test accuracy on average, with a standard error of {error:.2f}, "
        f"{verdict} two standard errors from no difference."
    )


if __name__ == "__main__":
    run(main, file=__file__, about=__doc__, options=OPTIONS, bars=BARS)
