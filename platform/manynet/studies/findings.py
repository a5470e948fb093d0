"""What a study has found so far: reads its ledger and its folder, and changes neither."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from manynet.config.experiment import Experiment, variants
from manynet.config.settings import SearchSettings
from manynet.records.conditions import parse_conditions
from manynet.records.goals import Goals
from manynet.records.ledger import Ledger, Record
from manynet.records.rank_correlation import FEWEST, RankingQuality, kendall
from manynet.report import ReportContent, write_report
from manynet.search.protocol import parse_goals, provenance
from manynet.storage import absolute, basename, join
from manynet.studies import facts, on_record
from manynet.studies.alone import TEST, Keys
from manynet.studies.facts import Facts
from manynet.studies.finalists import Selection
from manynet.studies.made_with import made_with
from manynet.studies.on_record import StudyError
from manynet.training import runs as training
from manynet.training.runs import Trained

SUPERNET = "supernet"
FILES = ("arch.json", "weights.safetensors", "model.onnx", "model.pt2")


@dataclass(frozen=True)
class Findings:
    """Reads what the steps of a study left. Needs neither the code of its space nor its data.

    Attributes:
        folder: of the study.
        facts: of its space and data.
        experiment: the steps on record.
        trained: the supernet; None until it is trained.
    """

    folder: str
    facts: Facts
    experiment: Experiment
    trained: Trained | None

    @classmethod
    def open(cls, folder: str | Path) -> Findings:
        """What the study in a folder found.

        Raises:
            StudyError: when the folder holds no study, or several.
            StorageError: it cannot be read.
        """
        address = absolute(folder)
        experiment = on_record.read(address)
        if experiment.sweep:
            names = ", ".join(variants(experiment))
            raise StudyError(f"{folder} holds several studies; name one of them: {names}")
        found = facts.read(address)
        if found is None:
            raise StudyError(
                f"{folder} must hold {facts.FACTS}, which an earlier version of Manynet did not write; "
                f"`manynet resume {folder}` writes it"
            )
        return cls(address, found, experiment, training.finished(join(address, SUPERNET)))

    @property
    def ledger(self) -> Ledger:
        """Every evaluation and measurement."""
        return Ledger(join(self.folder, "ledger"))

    @cached_property
    def records(self) -> list[Record]:
        """The ledger as it was when first asked for: one snapshot, and one reading, for a whole report."""
        return self.ledger.read()

    @cached_property
    def goals(self) -> Goals:
        """What the search is for."""
        return parse_goals(self._search, self.facts)

    @property
    def selection(self) -> Selection | None:
        """Who leaves the search on record, once there is a supernet."""
        settings = self.experiment.finalists
        if settings is None or self.trained is None:
            return None
        keys = Keys(self.facts.space_digest, self.facts.data_digest, self.trained.digest)
        return Selection(keys, self.trained.weights, settings)

    def evaluations(self) -> list[Record]:
        """Evaluations of the search, oldest first."""
        if self.experiment.search is None or self.trained is None:
            return []
        space, data = self.facts.space_digest, self.facts.data_digest
        made = provenance(space, self.trained.digest, data, self._search, self.goals).made
        return [record for record in self.records if made(record)]

    def finalists(self) -> list[Record]:
        """The finalists on disk, the best by the task's metric on the test split first."""
        column = TEST + self.facts.metric
        found = [record for record in self._handed_over() if record.kind == "finalist"]
        return sorted(found, key=lambda record: record.metrics.get(column, -math.inf), reverse=True)

    def pairs(self) -> list[tuple[float, float]]:
        """(shared, alone) of each anchor: the task's metric on the validation split."""
        metric = self.facts.metric
        shared = {frozenset(r.architecture.items()): r.metrics[metric] for r in self.evaluations()}
        anchors = [record for record in self._handed_over() if record.kind == "anchor"]
        alone = {frozenset(r.architecture.items()): r.metrics[metric] for r in anchors}
        return [(shared[arch], value) for arch, value in alone.items() if arch in shared]

    def ranking(self) -> RankingQuality | None:
        """Agreement of shared-weight scores with anchors trained alone; None with fewer than three anchors."""
        pairs = self.pairs()
        if len(pairs) < FEWEST:
            return None
        return kendall([shared for shared, _ in pairs], [alone for _, alone in pairs])

    def best(self, column: str | None = None, where: str = "") -> Record:
        """The best evaluated subnet or finalist: smallest of any column that is no metric to be made large.

        Args:
            column: a column of the ledger: ``accuracy``, ``test_accuracy``, ``macs``, ``latency@host/torch``...;
                None is the task's metric.
            where: conditions joined by ``and``, e.g. ``"latency@host/torch <= 5 and parameters <= 2e5"``.

        Raises:
            StudyError: when there is no subnet yet, none has the column, or none meets the conditions.
        """
        column = self.facts.metric if column is None else column
        conditions = parse_conditions(where)
        subnets = [
            record
            for record in self.records
            if record.space == self.facts.space_digest and record.kind in ("evaluation", "finalist")
        ]
        if not subnets:
            raise StudyError("the study has evaluated no subnet yet")
        columns = list(dict.fromkeys(name for record in subnets for name in record.metrics))
        for name in [column, *(condition.column for condition in conditions)]:
            if name not in columns:
                raise StudyError(f"a column must be one of ({', '.join(columns)}), but got {name!r}")
        fit_for = [r for r in subnets if column in r.metrics and all(c.holds(r.metrics) for c in conditions)]
        if not fit_for:
            raise StudyError(f"no subnet of the study meets {where!r}")
        sign = 1 if self.facts.columns.get(column.removeprefix(TEST), False) else -1
        return max(fit_for, key=lambda record: sign * record.metrics[column])

    def search_content(self) -> ReportContent:
        """The search's part of the report: evaluations, goals, and the front."""
        return ReportContent(
            title=basename(self.folder),
            metric=self.facts.metric,
            objectives=self.goals.objectives,
            conditions=self.goals.conditions,
            records=self.evaluations(),
            facts={
                "space": self.facts.space,
                "data": self.facts.data,
                "objectives": ", ".join(map(str, self.goals.objectives)),
            },
        )

    def content(self, refresh: float = 0) -> ReportContent:
        """All that there is to report.

        Args:
            refresh: seconds after which the page loads itself again.
        """
        searched, finalists = self.search_content(), self.finalists()
        return replace(
            searched,
            finalists=finalists,
            anchors=self.pairs(),
            ranking=self.ranking(),
            curves=training.curves(join(self.folder, SUPERNET)),
            links={r.key: [f"{r.details['folder']}/{name}" for name in FILES] for r in finalists},
            baseline=self.facts.baseline if finalists else None,
            refresh=refresh,
            settings=made_with(self.experiment, self.trained, [*searched.records, *self._handed_over()]),
        )

    @property
    def _search(self) -> SearchSettings:
        return self.experiment.search or SearchSettings()

    def _handed_over(self) -> list[Record]:
        selection = self.selection
        return [] if selection is None else [record for record in self.records if selection.made(record)]


def write_page(findings: Findings, refresh: float = 0) -> str:
    """Write ``report.html``, one page that opens offline; returns its address.

    Args:
        findings: of the study.
        refresh: seconds after which the page loads itself again.
    """
    address = join(findings.folder, "report.html")
    write_report(address, findings.content(refresh))
    return address
