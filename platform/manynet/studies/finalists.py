"""Who leaves a search, and how: winners are trained further and exported, anchors judge the ranking."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from manynet.config.settings import FinalistsSettings
from manynet.records.conditions import LATENCY, parse_conditions
from manynet.records.goals import Goals
from manynet.records.ledger import Kind, Record
from manynet.records.selection import anchors, winners
from manynet.search.outcome import Evaluation
from manynet.search.scoring import Latency
from manynet.space.evaluation import Inputs, fit
from manynet.space.export import export
from manynet.space.search_space import Architecture
from manynet.space.subnet import Subnet
from manynet.storage import copy_folder, join
from manynet.studies.alone import Alone, Keys, SubnetTrainer

COMPARED = 64
"""Validation examples on which every export must agree with its subnet."""
Measured = Callable[[Subnet, Inputs], Mapping[str, Latency]]
"""Latencies of a subnet by device name, measured on example inputs ``(1, ...)``."""


@dataclass(frozen=True)
class Selection:
    """Which subnets become finalists and anchors of a study, and which of its records are theirs.

    Attributes:
        keys: of their records.
        weights: address of the supernet's.
        settings: of the finalists step.
    """

    keys: Keys
    weights: str
    settings: FinalistsSettings

    def alone(self, kind: Kind, arch: Architecture) -> Alone:
        """How an architecture is trained as a finalist or as an anchor."""
        if kind == "anchor":
            return Alone(kind, arch, self.settings.anchor)
        start = self.weights if self.settings.start == "shared" else None
        return Alone(kind, arch, self.settings.finalist, start)

    def made(self, record: Record) -> bool:
        """Whether ``record`` is of this step, with these settings."""
        return record.kind in ("anchor", "finalist") and record.key == self._key(record.kind, record)

    def chosen(
        self, evaluations: Sequence[Record], goals: Goals, metric: str, done: Collection[str]
    ) -> list[Alone]:
        """Anchors and winners of a search. Those on record stay, wherever more are asked for.

        Args:
            evaluations: of the search.
            goals: of the search.
            metric: the task's main one.
            done: keys on record.
        """
        kept = {
            kind: {r.key for r in evaluations if self._key(kind, r) in done}
            for kind in ("anchor", "finalist")
        }
        conditions = [*goals.conditions, *parse_conditions(self.settings.where)]
        anchored = anchors(evaluations, metric, self.settings.anchors, kept["anchor"])
        won = winners(evaluations, goals.objectives, conditions, self.settings.count, kept["finalist"])
        return [
            *(self.alone("anchor", record.architecture) for record in anchored),
            *(self.alone("finalist", record.architecture) for record in won),
        ]

    def _key(self, kind: Kind, record: Record) -> str:
        return self.keys.of(self.alone(kind, record.architecture))


@dataclass(frozen=True)
class Finalists:
    """Makes a study's finalists and anchors.

    Attributes:
        trainer: of the supernet's subnets.
        settings: of the step.
    """

    trainer: SubnetTrainer
    settings: FinalistsSettings

    def run(self, chosen: Sequence[Alone], measured: Measured, exporter: Exporter) -> None:
        """Train, judge and record what is missing of ``chosen``.

        The test split is used here, once for each winner, and nowhere else.

        Raises:
            TrainingError: a training cannot start, or diverges.
            ExportError: an export does not give the subnet's outputs.
        """

        def finalist(subnet: Subnet) -> Evaluation:
            size = self.settings.batch_size
            latencies = measured(subnet, self.trainer.space.example(subnet.arch, batch=1))
            metrics = self.trainer.validation(subnet, size) | self.trainer.test(subnet, size)
            metrics |= {LATENCY + name: latency.milliseconds for name, latency in latencies.items()}
            measurements = [latency.to_dict() for latency in latencies.values()]
            return Evaluation(metrics, measurements, {"folder": exporter(subnet, metrics)})

        def anchor(subnet: Subnet) -> Evaluation:
            return Evaluation(self.trainer.validation(subnet, self.settings.batch_size))

        self.trainer.records(chosen, {"anchor": anchor, "finalist": finalist})


@dataclass(frozen=True)
class Exporter:
    """Writes a finalist's files into a study's folder.

    Attributes:
        trainer: of the finalist; its data checks the exports.
        reference: where the space is found again.
        folder: of the study.
    """

    trainer: SubnetTrainer
    reference: str
    folder: str

    def __call__(self, subnet: Subnet, metrics: Mapping[str, float]) -> str:
        """Export ``subnet``; returns its folder, relative to the study's.

        Raises:
            ExportError: an export does not give the subnet's outputs.
        """
        space, data = self.trainer.space, self.trainer.data
        place = f"finalists/{space.key(subnet.arch)}"
        about = {"metrics": dict(metrics), "data": data.name, "preprocessing": data.preprocessing()}
        size = min(COMPARED, len(data.validation))
        examples = fit(next(iter(data.validation.batches(size))).inputs, space, subnet.arch)
        with tempfile.TemporaryDirectory() as temporary:
            export(subnet, Path(temporary), space, self.reference, examples, about)
            copy_folder(Path(temporary), join(self.folder, place))
        return place
