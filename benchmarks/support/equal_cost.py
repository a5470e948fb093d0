"""What comparisons of searches at equal cost share: one recipe that trains a net alone, and CPU seconds by purpose."""

from __future__ import annotations

import itertools
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

import manynet as mn
from manynet.config.settings import TrainSettings
from manynet.data import Batch, Data, Split
from manynet.data.images.augment import augment
from manynet.learning.learner import Learner
from manynet.learning.strategy import Strategy
from manynet.search.scoring import calibration_batches
from manynet.space.evaluation import Inputs, calibrated, score
from manynet.space.subnet import Subnet
from manynet.trainers.finetune import FineTune
from manynet.training.loop import HeldOut

SCORED, CALIBRATED = 256, 2
"""Examples a forward pass of scoring; batches of as many that renew batch-norm statistics."""

HASTY: dict[str, Any] = {"learning_rate": 0.2, "every": 2, "warmup": 0.2, "temperature": 1.0}
FEW = 300
"""Steps of a differentiable search below which the strategy's defaults decide too little, and ``HASTY`` decides more."""


def search_options(steps: int) -> dict[str, Any]:
    """Of a differentiable search that is this short or long."""
    return HASTY if steps < FEW else {}


class Spent:
    """CPU seconds of this process, by purpose."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def on(self, purpose: str) -> Iterator[None]:
        """Count what runs inside; contexts must not be nested."""
        start = time.process_time()
        try:
            yield
        finally:
            self.seconds[purpose] += time.process_time() - start

    @property
    def total(self) -> float:
        """Over all purposes."""
        return sum(self.seconds.values())


@dataclass(frozen=True)
class Alone:
    """A net that was trained alone.

    Attributes:
        arch: its architecture.
        macs: multiply-adds of one example.
        subnet: with renewed batch-norm statistics.
        validation: its metrics on the validation split.
    """

    arch: mn.Architecture
    macs: int
    subnet: Subnet
    validation: dict[str, float]

    @property
    def merit(self) -> tuple[float, float]:
        """What nets are chosen by: accuracy on the validation split, then a small loss."""
        return self.validation["accuracy"], -self.validation["loss"]


@dataclass(frozen=True)
class Terms:
    """What all methods have in common.

    Attributes:
        space: that is searched.
        data: its train split teaches, its validation split chooses, its test split is for reports.
        recipe: by which every net is trained alone.
        examples: of the validation split that are scored, at most.
    """

    space: mn.SearchSpace
    data: Data
    recipe: TrainSettings
    examples: int

    @cached_property
    def calibration(self) -> Sequence[Inputs]:
        """Training inputs that renew batch-norm statistics."""
        return calibration_batches(self.data, CALIBRATED, SCORED)

    def learnt(self, network: torch.nn.Module, strategy: Strategy, settings: TrainSettings) -> Learner:
        """Train a network as a training worker would: the same streams, augmentation and held-out examples."""
        train, held = self.data.train, None
        if strategy.held_out:
            theirs, train = train.divided(strategy.held_out, seed=settings.seed)
            held = HeldOut(lambda start: _stream(theirs, settings, start))
        learner = Learner(network, self.space, strategy, settings, held=held)
        for batch in itertools.islice(_stream(train, settings), settings.steps):
            learner.train_on(batch)
        return learner

    def supernet(self) -> torch.nn.Module:
        """A new one, with weights drawn by the recipe's seed."""
        torch.manual_seed(self.recipe.seed)
        return self.space.build()

    def alone(self, arch: mn.Architecture, supernet: torch.nn.Module | None = None) -> Alone:
        """Train an architecture by the recipe, from a supernet's weights or random ones, and score it on validation."""
        start = self.supernet() if supernet is None else supernet
        # An averaged supernet's parameters need no gradients, nor would the copies that leave it.
        network = mn.extract(start, arch, self.space.example(arch, batch=1)).requires_grad_(True)
        averaged = self.learnt(network, FineTune(), self.recipe).averaged()
        assert isinstance(averaged, Subnet)
        subnet = calibrated(averaged, self.space, self.calibration)
        validation = score(subnet, self.space, self.data.validation, batch_size=SCORED, limit=self.examples)
        return Alone(arch, self.space.read(arch).macs, subnet, validation)

    def tested(self, net: Alone) -> float:
        """Accuracy on the whole test split: once for each winner."""
        return score(net.subnet, self.space, self.data.test, batch_size=SCORED)["accuracy"]


def _stream(split: Split, settings: TrainSettings, start: int = 0) -> Iterator[Batch]:
    stream = split.stream(settings.batch_size, seed=settings.seed, start=start)
    for step, batch in enumerate(stream, start):
        yield augment(batch, settings.augment, seed=settings.seed, step=step)


def affordable(spent: Spent, budget: float, made: int, purpose: str) -> bool:
    """Whether one more of what ``purpose`` makes fits the budget at least by half, by the mean cost of those made.

    By half, so that a method ends above its budget as often as below.
    """
    each = spent.seconds[purpose] / made if made else 0.0
    return spent.total + each / 2 < budget
