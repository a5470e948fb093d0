"""Subnets trained by themselves: each is trained, judged and recorded once."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from manynet.config.settings import Role, TrainSettings
from manynet.data import Data
from manynet.records.ledger import Kind, Ledger, Record, record_key
from manynet.search.outcome import Evaluation
from manynet.space.evaluation import score
from manynet.space.search_space import Architecture, SearchSpace
from manynet.space.subnet import Subnet, cost
from manynet.training import runs as training

TEST = "test_"
"""What the name of a metric on the test split begins with."""


@dataclass(frozen=True)
class Alone:
    """A subnet to be trained by itself, and what its record is to be.

    Attributes:
        kind: of the record.
        arch: its architecture.
        settings: how it is trained.
        weights: address of the supernet weights it starts from; None starts from random weights.
    """

    kind: Kind
    arch: Architecture
    settings: TrainSettings
    weights: str | None = None

    @property
    def protocol(self) -> str:
        """What of the training decides its weights, in words: part of the ledger key."""
        start = "shared" if self.weights else "random"
        return f"{json.dumps(self.settings.fixed, sort_keys=True)} start={start}"


@dataclass(frozen=True)
class Keys:
    """Ledger keys of subnets trained by themselves.

    Attributes:
        space: digest of their space.
        data: digest of the data.
        supernet: digest of the weights that they belong to; empty where they belong to none.
    """

    space: str
    data: str
    supernet: str = ""

    def of(self, alone: Alone) -> str:
        """The key of a subnet's record."""
        return record_key(alone.kind, self.space, self.supernet, alone.arch, self.data, alone.protocol)


Judge = Callable[[Subnet], Evaluation]
"""What a trained subnet, on the CPU, is worth."""


@dataclass(frozen=True)
class SubnetTrainer:
    """Trains subnets of one space on one data set; what is on record is not done again.

    Attributes:
        space: of the subnets.
        data: they are trained on.
        ledger: their records go to.
        folder: of their trainings.
        supernet: digest of the weights that they belong to; empty where they belong to none.
    """

    space: SearchSpace
    data: Data
    ledger: Ledger
    folder: str
    supernet: str = ""

    def key(self, alone: Alone) -> str:
        """The key of its record."""
        return Keys(self.space.digest, self.data.digest, self.supernet).of(alone)

    def missing(self, requests: Sequence[Alone]) -> list[Alone]:
        """Requests without a record."""
        done = self.ledger.keys()
        return [alone for alone in requests if self.key(alone) not in done]

    def records(self, requests: Sequence[Alone], judges: Mapping[Kind, Judge]) -> list[Record]:
        """The record of each request; missing ones are trained together, then judged one by one.

        Args:
            requests: all with the same ``workers`` and ``threads``.
            judges: one for each kind.

        Raises:
            TrainingError: as :func:`manynet.training.runs.train_subnets`.
        """
        missing = self.missing(requests)
        jobs = [training.SubnetJob(self.key(a), a.arch, a.settings, a.weights) for a in missing]
        trained = training.train_subnets(jobs, self.space, self.data, self.folder) if jobs else {}
        for alone in missing:
            subnet = training.load_subnet(self.space, alone.arch, trained[self.key(alone)])
            self.ledger.write(self._record(alone, judges[alone.kind](subnet)))
        records = {record.key: record for record in self.ledger.read()}
        return [records[self.key(alone)] for alone in requests]

    def validation(self, subnet: Subnet, batch_size: int) -> dict[str, float]:
        """The task's metrics on the validation split, and the subnet's cost."""
        price = cost(self.space, subnet.arch)
        scores = score(subnet, self.space, self.data.validation, batch_size=batch_size)
        return scores | {"macs": price.macs, "parameters": price.parameters}

    def test(self, subnet: Subnet, batch_size: int) -> dict[str, float]:
        """The task's metrics on the test split, under their names there."""
        scores = score(subnet, self.space, self.data.test, batch_size=batch_size)
        return {TEST + name: value for name, value in scores.items()}

    def _record(self, alone: Alone, judged: Evaluation) -> Record:
        return Record(
            key=self.key(alone),
            kind=alone.kind,
            space=self.space.digest,
            weights=self.supernet,
            architecture=dict(alone.arch),
            data=self.data.digest,
            protocol=alone.protocol,
            metrics=judged.metrics,
            measurements=judged.measurements,
            details={**judged.details, "made_with": alone.settings.of(Role.EFFORT)},
        )
