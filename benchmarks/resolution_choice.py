"""Does differentiable search find the best resolution? Two ways of choosing it, on problems whose answer is known.

Only the resolution of a small inverted-residual network is undecided. The answer is the lowest sum of validation
cross-entropy and price of the multiply-adds, each resolution trained alone. A low and a high price have different
answers, on the digits neither the cheapest resolution nor the dearest. The ways take turns, step by step, on one thread:

* weighted sum: every step runs the network at all resolutions and sums what they give (FBNetV2, arXiv 2004.05565,
  section 3.3);
* drawn: every step runs it at one resolution, drawn by the learnt probabilities.

A way that finds the answer in fewer than 4 of 5 seeds, at either price, is not fit to be the default.

    python benchmarks/resolution_choice.py [--data idx:PATH]
"""

from __future__ import annotations

import itertools
import sys
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

import torch
from ray import tune
from support.frame import Option, at_least, run, show
from support.memory import SavedBytes
from support.timing import cpu_seconds

import manynet as mn
from manynet.config.settings import TrainSettings
from manynet.data import Batch, Data, Split, load
from manynet.data.images.augment import augment
from manynet.learning.learner import Learner
from manynet.search.scoring import calibration_batches
from manynet.search_spaces import dmasking
from manynet.space.evaluation import score
from manynet.trainers.cost_terms import additive
from manynet.trainers.differentiable import Differentiable
from manynet.trainers.finetune import FineTune
from manynet.training.loop import HeldOut

WAYS = {"weighted sum": "", "drawn": None}
BATCH, HELD_OUT = 64, 0.2
OPTIONS = (
    Option("--data", "digits", "digits, or idx:PATH of Fashion-MNIST"),
    Option("--seeds", 5, "two or more", quick=2),
    Option("--steps", 240, quick=2),
    Option("--prices", 2, "of each problem's", quick=1),
    Option("--memory-steps", 40, "that saved bytes are counted in", quick=1),
)
BARS = {
    # Of seeds, by the default way at the harder price.
    "share_right": at_least(0.8),
    # Whether the answer is known, so that a search can be judged by it.
    "margin_in_standard_errors": at_least(2.0),
}
TERM = "trainers.cost_terms:additive"


@dataclass(frozen=True)
class Problem:
    """Images and resolutions to choose from, at prices of a unit of log cost."""

    data: Data
    space: mn.SearchSpace
    prices: Sequence[float]
    steps: int

    @property
    def resolutions(self) -> Sequence[int]:
        """From the cheapest."""
        return [int(size) for size in self.space.soft["resolution"]]

    def macs(self, resolution: int) -> int:
        """Of one image."""
        return mn.cost(self.space, {**self.space.largest, "resolution": resolution}).macs

    def settings(self, seed: int) -> TrainSettings:
        """The same for every training. Without smoothing, the loss is the cross-entropy that is compared."""
        return TrainSettings(
            steps=self.steps, batch_size=BATCH, learning_rate=5e-3, ema=0, label_smoothing=0.0, seed=seed
        )

    def divided(self, seed: int) -> tuple[Split, Split]:
        """Images for the choice, and for the weights."""
        return self.data.train.divided(HELD_OUT, seed=seed)


def main(given: Namespace) -> dict[str, Any]:
    """Find the answers, then let both ways search."""
    torch.set_num_threads(1)
    problem = digits(given.steps) if given.data == "digits" else fashion(given.data, given.steps)
    seeds, prices = range(given.seeds), problem.prices[: given.prices]
    losses = {size: [loss_alone(problem, size, seed) for seed in seeds] for size in problem.resolutions}
    answers = {price: answer(problem, losses, price) for price in prices}
    show_answers(problem, losses, answers)
    searches = [search for price in prices for seed in seeds for search in searched(problem, price, seed)]
    show_searches(problem, searches, answers)
    verdicts = {way: verdict(problem, way, searches, answers, given.memory_steps) for way in WAYS}
    for way, one in verdicts.items():
        print(f"{way}: {one}")
    default = next(way for way, drawn in WAYS.items() if drawn == Differentiable(target=1).drawn)
    return {
        "share_right": min(verdicts[default].right.values()),
        "margin_in_standard_errors": min(known.errors for known in answers.values()),
        "default": default,
        "answers": {price: vars(known) for price, known in answers.items()},
        **{way: vars(one) for way, one in verdicts.items()},
    }


def digits(steps: int) -> Problem:
    """Scikit-learn's digits, 8 x 8."""
    space = only_resolution((2, 3, 4, 6))
    return Problem(load("digits", channels=1), space, prices=(0.25, 0.95), steps=steps)


def fashion(spec: str, steps: int) -> Problem:
    """Fashion-MNIST, scaled to 7 x 7: in so few steps, more pixels are no better."""
    space = only_resolution((2, 3, 4, 7))
    return Problem(load(spec, channels=1, image_size=7), space, prices=(0.05, 1.0), steps=steps)


def only_resolution(resolutions: Sequence[int]) -> mn.SearchSpace:
    """A space of two inverted residuals in which all but the resolution is decided."""
    whole = dmasking.space(
        "resolution-choice",
        resolution=resolutions,
        stages=(dmasking.Stage((16,), 1, 1, (2.0,)), dmasking.Stage((24,), 1, 2, (3.0,))),
        stem=8,
        stem_stride=1,
        kernels=(3,),
        head=48,
        channels=1,
        classes=10,
    )
    domains = {key: tune.choice([value]) for key, value in whole.largest.items()}
    return mn.SearchSpace(
        whole.name,
        {**domains, "resolution": whole.domains["resolution"]},
        whole.build,
        whole.task,
        lambda arch: (1, arch["resolution"], arch["resolution"]),
        soft=["resolution"],
    )


def batches(split: Split, seed: int, start: int = 0) -> Iterator[Batch]:
    """Augmented as training does it."""
    stream = split.stream(BATCH, seed=seed, start=start)
    return (augment(batch, "shift", seed=seed, step=step) for step, batch in enumerate(stream, start))


def loss_alone(problem: Problem, resolution: int, seed: int) -> float:
    """Validation cross-entropy after training at one resolution, on the images that a search's weights see."""
    space, data = problem.space, problem.data
    arch = {**space.largest, "resolution": resolution}
    torch.manual_seed(seed)
    subnet = mn.extract(space.build(), arch, space.example(arch))
    learner = Learner(subnet, space, FineTune(), problem.settings(seed))
    _, train = problem.divided(seed)
    for batch in itertools.islice(batches(train, seed), problem.steps):
        learner.train_on(batch)
    calibration = calibration_batches(data, 4, 256)
    return score(subnet, space, data.validation, batch_size=256, calibration=calibration)["loss"]


def objective(problem: Problem, loss: float, resolution: int, price: float) -> float:
    """What a search minimises: cost counts relative to the cheapest resolution's."""
    cost, target = problem.macs(resolution), problem.macs(problem.resolutions[0])
    return float(additive(torch.tensor(loss), torch.tensor(float(cost)), target, price))


@dataclass(frozen=True)
class Answer:
    """The best resolution, and how far ahead it is of the next.

    Attributes:
        resolution: with the lowest mean objective.
        margin: of that mean to the next higher one.
        error: standard error of the margin over seeds.
    """

    resolution: int
    margin: float
    error: float

    @property
    def errors(self) -> float:
        """The margin in standard errors."""
        return self.margin / self.error


def answer(problem: Problem, losses: Mapping[int, Sequence[float]], price: float) -> Answer:
    """By the means over seeds."""
    values = {size: [objective(problem, loss, size, price) for loss in row] for size, row in losses.items()}
    best, second = sorted(values, key=lambda size: mean(values[size]))[:2]
    gaps = [b - a for a, b in zip(values[best], values[second], strict=True)]
    return Answer(best, mean(gaps), stdev(gaps) / len(gaps) ** 0.5)


@dataclass
class Search:
    """One search in progress.

    Attributes:
        seconds: CPU seconds so far.
    """

    way: str
    price: float
    seed: int
    learner: Learner
    stream: Iterator[Batch]
    seconds: float = 0.0

    @property
    def strategy(self) -> Differentiable:
        """What it learnt."""
        assert isinstance(self.learner.strategy, Differentiable)
        return self.learner.strategy

    @property
    def found(self) -> int:
        """The likeliest resolution."""
        return int(self.strategy.found()["resolution"])

    def step(self) -> None:
        """One step of training; data come outside the clock."""
        batch = next(self.stream)
        self.seconds += cpu_seconds(lambda: self.learner.train_on(batch))


def search(problem: Problem, way: str, price: float, seed: int, **options: Any) -> Search:
    """A search that has not begun; what it is not told is the strategy's default."""
    held, train = problem.divided(seed)
    target = problem.macs(problem.resolutions[0])
    strategy = Differentiable(
        target=target, term=TERM, strength=price, held_out=HELD_OUT, drawn=WAYS[way], **options
    )
    torch.manual_seed(seed)
    learner = Learner(
        problem.space.build(),
        problem.space,
        strategy,
        problem.settings(seed),
        held=HeldOut(lambda start: batches(held, seed, start)),
    )
    return Search(way, price, seed, learner, batches(train, seed))


def searched(problem: Problem, price: float, seed: int) -> list[Search]:
    """Both ways from the same weights and on the same batches, step by step in turns."""
    both = [search(problem, way, price, seed) for way in WAYS]
    for _ in range(problem.steps):
        for one in both:
            one.step()
    # Said as it goes: all of it takes minutes.
    print(f"price {price}, seed {seed}:", *(f"{one.way} {one.found}" for one in both), file=sys.stderr)
    return both


def saved_megabytes(problem: Problem, way: str, steps: int) -> float:
    """The most of some steps, apart from the searches, because to count takes time."""
    watched = search(problem, way, problem.prices[0], 0, warmup=0.0)
    counter = SavedBytes(watched.learner.network)
    with counter.counted():
        for _ in range(steps):
            watched.step()
    return counter.most / 1e6


def show_answers(
    problem: Problem, losses: Mapping[int, Sequence[float]], answers: Mapping[float, Answer]
) -> None:
    """Each resolution alone."""
    rows = []
    for size, row in losses.items():
        values = [
            f"{objective(problem, mean(row), size, price):.3f}{' best' * (size == found.resolution)}"
            for price, found in answers.items()
        ]
        loss = f"{mean(row):.3f} +- {stdev(row):.3f}"
        rows.append((f"{size}", f"{problem.macs(size):,}", loss, *values))
    show(
        f"each resolution alone: {problem.data.name}, {problem.steps} steps",
        ("resolution", "MACs", "cross-entropy", *(f"+ {price} log cost" for price in answers)),
        rows,
    )
    for price, found in answers.items():
        margin = f"{found.margin:.3f} +- {found.error:.3f} (standard error)"
        print(f"price {price}: the answer is {found.resolution}, ahead by {margin}")


def show_searches(problem: Problem, searches: Sequence[Search], answers: Mapping[float, Answer]) -> None:
    """What each search found, and how sure it is."""
    rows = []
    for one in searches:
        probabilities = one.strategy.logits["resolution"].detach().softmax(0).tolist()
        rows.append(
            (
                *(f"{one.price}", f"{one.seed}", one.way, f"{one.found}"),
                f"{answers[one.price].resolution}",
                *(f"{probability:.2f}" for probability in probabilities),
                f"{1e3 * one.seconds / problem.steps:.1f}",
            )
        )
    names = [f"p({size})" for size in problem.resolutions]
    show("searches", ("price", "seed", "way", "found", "answer", *names, "CPU ms a step"), rows)


@dataclass(frozen=True)
class Verdict:
    """On one way.

    Attributes:
        right: share of seeds in which it found the answer, by price.
        saved_megabytes: most that is held for backward passes at a time.
        cpu_ms_a_step: of training, the logits' steps included.
    """

    right: Mapping[float, float]
    saved_megabytes: float
    cpu_ms_a_step: float

    def __str__(self) -> str:
        right = ", ".join(f"{share:.0%} at price {price}" for price, share in self.right.items())
        return f"right {right}; {self.saved_megabytes:.2f} MB saved, {self.cpu_ms_a_step:.1f} CPU ms a step"


def verdict(
    problem: Problem, way: str, searches: Sequence[Search], answers: Mapping[float, Answer], steps: int
) -> Verdict:
    """Of all searches, those of one way."""
    mine = [one for one in searches if one.way == way]
    right = {
        price: mean(one.found == known.resolution for one in mine if one.price == price)
        for price, known in answers.items()
    }
    milliseconds = 1e3 * mean(one.seconds for one in mine) / problem.steps
    return Verdict(right, saved_megabytes(problem, way, steps), milliseconds)


if __name__ == "__main__":
    run(main, file=__file__, about=__doc__, options=OPTIONS, bars=BARS)
