"""From an evaluated subnet to a finalist on disk, or to an anchor's score."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manynet.config.settings import FinalistsSettings, TrainSettings
from manynet.data import Data
from manynet.records.conditions import LATENCY
from manynet.records.ledger import Kind, Record, record_key
from manynet.search.scoring import Latency
from manynet.space.evaluation import Inputs, fit, score
from manynet.space.export import export
from manynet.space.search_space import Architecture, SearchSpace
from manynet.space.subnet import Subnet, cost
from manynet.storage import copy_folder, join
from manynet.training.runs import SubnetJob

TEST = "test_"
"""What the name of a metric on the test split begins with."""
COMPARED = 64
"""Validation examples on which every export must agree with its subnet."""
_OWN = set(FinalistsSettings.model_fields) - set(TrainSettings.model_fields)


def winner_settings(settings: FinalistsSettings) -> TrainSettings:
    """How a finalist is trained further."""
    return TrainSettings(**settings.model_dump(exclude=_OWN))


def anchor_settings(settings: FinalistsSettings) -> TrainSettings:
    """How an anchor is trained alone: as a finalist, but from random weights and with its own budget."""
    budget = {"steps": settings.anchor_steps, "learning_rate": settings.anchor_learning_rate}
    return winner_settings(settings).model_copy(update=budget)


def training_protocol(settings: TrainSettings) -> str:
    """What of a training decides its weights, in words: part of ledger keys."""
    return settings.model_dump_json(exclude={"workers", "threads", "evaluate_every", "checkpoint_every"})


@dataclass(frozen=True)
class Handover:
    """Makes records of trained subnets.

    Attributes:
        space: they come from.
        space_reference: where the space is found again.
        data: they were trained on.
        weights_digest: of the supernet.
        settings: of the finalists step.
    """

    space: SearchSpace
    space_reference: str
    data: Data
    weights_digest: str
    settings: FinalistsSettings

    def anchor_jobs(self, records: Sequence[Record]) -> list[SubnetJob]:
        """Trainings alone, each named by the key of the record that it will give."""
        settings = anchor_settings(self.settings)
        return [SubnetJob(self.key("anchor", r.architecture), r.architecture, settings) for r in records]

    def finalist_jobs(self, records: Sequence[Record], weights: str) -> list[SubnetJob]:
        """Trainings of winners, named likewise; ``weights`` is the supernet's address."""
        settings = winner_settings(self.settings)
        start = weights if self.settings.start == "shared" else None
        return [
            SubnetJob(self.key("finalist", r.architecture), r.architecture, settings, start) for r in records
        ]

    def key(self, kind: Kind, arch: Architecture) -> str:
        """The ledger key of ``arch`` after this step."""
        return record_key(
            kind, self.space.digest, self.weights_digest, arch, self.data.digest, self._protocol(kind)
        )

    def anchor(self, subnet: Subnet) -> Record:
        """What an architecture reaches alone, on the validation split."""
        return self._record("anchor", subnet, self._scores(subnet))

    def finalist(self, subnet: Subnet, measured: Mapping[str, Latency], folder: str) -> Record:
        """Score a winner on validation and test, and export it under ``folder``, the study's own.

        Args:
            subnet: trained, on the CPU.
            measured: its latencies by device name.
            folder: of the study.

        Raises:
            ExportError: an export does not give the subnet's outputs.
        """
        test = score(subnet, self.space, self.data.test, batch_size=self.settings.batch_size)
        metrics = self._scores(subnet) | {TEST + name: value for name, value in test.items()}
        metrics |= {LATENCY + name: latency.milliseconds for name, latency in measured.items()}
        place = f"finalists/{self.space.key(subnet.arch)}"
        about = {
            "metrics": metrics,
            "data": self.data.name,
            "preprocessing": self.data.preprocessing(),
        }
        with tempfile.TemporaryDirectory() as temporary:
            export(
                subnet, Path(temporary), self.space, self.space_reference, self._examples(subnet.arch), about
            )
            copy_folder(Path(temporary), join(folder, place))
        return self._record(
            "finalist", subnet, metrics, [m.to_dict() for m in measured.values()], {"folder": place}
        )

    def _scores(self, subnet: Subnet) -> dict[str, float]:
        price = cost(self.space, subnet.arch)
        scores = score(subnet, self.space, self.data.validation, batch_size=self.settings.batch_size)
        return scores | {"macs": price.macs, "parameters": price.parameters}

    def _examples(self, arch: Architecture) -> Inputs:
        size = min(COMPARED, len(self.data.validation))
        return fit(next(iter(self.data.validation.batches(size))).inputs, self.space, arch)

    def _protocol(self, kind: Kind) -> str:
        if kind == "anchor":
            return training_protocol(anchor_settings(self.settings))
        start = "" if self.settings.start == "shared" else f" start={self.settings.start}"
        return training_protocol(winner_settings(self.settings)) + start

    def _record(
        self,
        kind: Kind,
        subnet: Subnet,
        metrics: Mapping[str, float],
        measurements: Sequence[Mapping[str, Any]] = (),
        details: Mapping[str, Any] | None = None,
    ) -> Record:
        return Record(
            key=self.key(kind, subnet.arch),
            kind=kind,
            space=self.space.digest,
            weights=self.weights_digest,
            architecture=subnet.arch,
            data=self.data.digest,
            protocol=self._protocol(kind),
            metrics=metrics,
            measurements=measurements,
            details=details or {},
        )
