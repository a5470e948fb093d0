"""What a study has found so far: reads its ledger and its folder, and changes neither."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from manynet.config.experiment import Experiment
from manynet.config.settings import SearchSettings
from manynet.data import Data
from manynet.records.conditions import parse_conditions
from manynet.records.goals import Goals
from manynet.records.ledger import Ledger, Record
from manynet.records.rank_correlation import FEWEST, RankingQuality, kendall
from manynet.report import ReportContent
from manynet.search.protocol import parse_goals, provenance
from manynet.space.search_space import SearchSpace
from manynet.space.tasks import Task
from manynet.storage import basename, join
from manynet.studies.alone import TEST, SubnetTrainer
from manynet.studies.finalists import Finalists
from manynet.studies.made_with import made_with
from manynet.studies.on_record import StudyError
from manynet.training import runs as training
from manynet.training.runs import Trained

FILES = ("arch.json", "weights.safetensors", "model.onnx", "model.pt2")


@dataclass(frozen=True)
class Findings:
    """Reads what the steps of a study left.

    Attributes:
        folder: of the study.
        space: searched.
        data: trained and scored on.
        experiment: the steps on record.
        trained: the supernet; None until it is trained.
    """

    folder: str
    space: SearchSpace
    data: Data
    experiment: Experiment
    trained: Trained | None

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
        return parse_goals(self._search, self.space.task)

    @property
    def finalists_step(self) -> Finalists | None:
        """The finalists step on record, once there is a supernet for it."""
        settings = self.experiment.finalists
        if settings is None or self.trained is None:
            return None
        trainer = SubnetTrainer(
            self.space, self.data, self.ledger, join(self.folder, "subnets"), self.trained.digest
        )
        return Finalists(trainer, self.trained.weights, settings)

    def evaluations(self) -> list[Record]:
        """Evaluations of the search, oldest first."""
        if self.experiment.search is None or self.trained is None:
            return []
        made = provenance(self.space, self.trained.digest, self.data, self._search, self.goals).made
        return [record for record in self.records if made(record)]

    def finalists(self) -> list[Record]:
        """The finalists on disk, the best by the task's metric on the test split first."""
        column = TEST + self.space.task.metric
        found = [record for record in self._handed_over() if record.kind == "finalist"]
        return sorted(found, key=lambda record: record.metrics.get(column, -math.inf), reverse=True)

    def pairs(self) -> list[tuple[float, float]]:
        """(shared, alone) of each anchor: the task's metric on the validation split."""
        metric, key = self.space.task.metric, self.space.key
        shared = {key(r.architecture): r.metrics[metric] for r in self.evaluations()}
        anchors = [record for record in self._handed_over() if record.kind == "anchor"]
        alone = {key(r.architecture): r.metrics[metric] for r in anchors}
        return [(shared[arch], value) for arch, value in alone.items() if arch in shared]

    def ranking(self) -> RankingQuality | None:
        """Agreement of shared-weight scores with anchors trained alone; None with fewer than three anchors."""
        pairs = self.pairs()
        if len(pairs) < FEWEST:
            return None
        return kendall([shared for shared, _ in pairs], [alone for _, alone in pairs])

    def search_content(self) -> ReportContent:
        """The search's part of the report: evaluations, goals, and the front."""
        return ReportContent(
            title=basename(self.folder),
            metric=self.space.task.metric,
            objectives=self.goals.objectives,
            conditions=self.goals.conditions,
            records=self.evaluations(),
            facts={
                "space": self.space.name,
                "data": self.data.name,
                "objectives": ", ".join(map(str, self.goals.objectives)),
            },
        )

    def content(self, baseline: tuple[str, float] | None = None, refresh: float = 0) -> ReportContent:
        """All that there is to report.

        Args:
            baseline: name and score of a plain model.
            refresh: seconds after which the page loads itself again.
        """
        searched, finalists = self.search_content(), self.finalists()
        return replace(
            searched,
            finalists=finalists,
            anchors=self.pairs(),
            ranking=self.ranking(),
            curves=training.curves(join(self.folder, "supernet")),
            links={r.key: [f"{r.details['folder']}/{name}" for name in FILES] for r in finalists},
            baseline=baseline,
            refresh=refresh,
            settings=made_with(self.experiment, self.trained, [*searched.records, *self._handed_over()]),
        )

    @property
    def _search(self) -> SearchSettings:
        return self.experiment.search or SearchSettings()

    def _handed_over(self) -> list[Record]:
        step = self.finalists_step
        return [] if step is None else [record for record in self.records if step.made(record)]


def best(records: Sequence[Record], task: Task, column: str | None = None, where: str = "") -> Record:
    """The best evaluated subnet or finalist; see :meth:`manynet.studies.study.Study.best`.

    Raises:
        StudyError: when there is no subnet yet, none has the column, or none meets the conditions.
    """
    column = task.metric if column is None else column
    conditions = parse_conditions(where)
    subnets = [record for record in records if record.kind in ("evaluation", "finalist")]
    if not subnets:
        raise StudyError("the study has evaluated no subnet yet")
    columns = list(dict.fromkeys(name for record in subnets for name in record.metrics))
    for name in [column, *(condition.column for condition in conditions)]:
        if name not in columns:
            raise StudyError(f"a column must be one of ({', '.join(columns)}), but got {name!r}")
    fit_for = [r for r in subnets if column in r.metrics and all(c.holds(r.metrics) for c in conditions)]
    if not fit_for:
        raise StudyError(f"no subnet of the study meets {where!r}")
    sign = 1 if task.columns.get(column.removeprefix(TEST), False) else -1
    return max(fit_for, key=lambda record: sign * record.metrics[column])
