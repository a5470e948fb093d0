"""Content of a report, and quantities derived from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from manynet.errors import ManynetError
from manynet.records.conditions import LATENCY, Condition, Objective
from manynet.records.ledger import Record
from manynet.records.pareto import Floats, front, hypervolume_curve
from manynet.records.rank_correlation import RankingQuality


class ReportError(ManynetError, ValueError):
    """A report cannot be made from these arguments."""


@dataclass(frozen=True)
class ReportContent:
    """The parts of a study that its report shows; the report says why a part is missing.

    Attributes:
        title: name of the study.
        objectives: what was searched for; the first is every plot's vertical axis.
        metric: the task's main metric; higher is better.
        records: evaluations, in order of time.
        conditions: the search's constraints; only records that meet them can be on the front.
        finalists: records of fine-tuned winners.
        anchors: (shared, alone) ``metric`` of every architecture that was also trained alone.
        ranking: rank correlation over the anchors.
        curves: rows of training: ``step`` and any of ``loss``, ``learning_rate``, ``largest/accuracy``, ...
        baseline: name and ``metric`` on the test split of a simple model, e.g.
            ``("logistic regression", 0.96)``.
        links: for a finalist's key, paths of its files relative to the report.
        facts: further lines of the heading, e.g. ``{"space": "vit-tiny", "data": "digits"}``.
        settings: of each step, as text.
        refresh: seconds between reloads of the page while the run goes on; 0 is never.

    Raises:
        ReportError: there is no objective, or a link is not a relative path.
    """

    title: str
    objectives: Sequence[Objective]
    metric: str
    records: Sequence[Record] = ()
    conditions: Sequence[Condition] = ()
    finalists: Sequence[Record] = ()
    anchors: Sequence[tuple[float, float]] = ()
    ranking: RankingQuality | None = None
    curves: Sequence[Mapping[str, float]] = ()
    baseline: tuple[str, float] | None = None
    links: Mapping[str, Sequence[str]] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    refresh: float = 0

    def __post_init__(self) -> None:
        if not self.objectives:
            raise ReportError("a report needs at least one objective, but got none")
        for link in (link for links in self.links.values() for link in links):
            if urlsplit(link).scheme or PurePosixPath(link).is_absolute():
                raise ReportError(f"links must be paths relative to the report, but got {link!r}")

    @property
    def maximise(self) -> list[bool]:
        """For each objective, whether larger is better."""
        return [objective.maximise for objective in self.objectives]

    def feasible(self, record: Record) -> bool:
        """Whether ``record`` has every objective and meets every condition."""
        values = [record.metrics.get(objective.column, np.nan) for objective in self.objectives]
        return bool(np.isfinite(values).all()) and all(
            condition.holds(record.metrics) for condition in self.conditions
        )

    @cached_property
    def values(self) -> Floats:
        """(N, M) objectives of the records; NaN for infeasible records."""
        columns = [objective.column for objective in self.objectives]
        rows = [
            [record.metrics[column] if self.feasible(record) else np.nan for column in columns]
            for record in self.records
        ]
        return np.array(rows, dtype=np.float64).reshape(-1, len(columns))

    @cached_property
    def front(self) -> list[Record]:
        """Records on the Pareto front, best first by the first objective."""
        first = self.objectives[0]
        members = [self.records[index] for index in front(self.values, self.maximise)]
        return sorted(members, key=lambda record: record.metrics[first.column], reverse=first.maximise)

    @cached_property
    def curve(self) -> Floats:
        """(N,) hypervolume after each record, as a share of the box of feasible values."""
        return hypervolume_curve(self.values, self.maximise)

    @property
    def colour(self) -> str:
        """The column for the colour of architectures: the metric if any record has it, else the first objective."""
        has_metric = any(self.metric in record.metrics for record in self.records)
        return self.metric if has_metric else self.objectives[0].column

    @property
    def metrics(self) -> list[str]:
        """Columns of the records' metrics, in order of appearance."""
        return list(dict.fromkeys(column for record in self.records for column in record.metrics))


def measurement(record: Record, column: str) -> Mapping[str, Any]:
    """The measurement behind a latency column; empty for other columns, or without one."""
    if not column.startswith(LATENCY):
        return {}
    device = column.removeprefix(LATENCY)
    return next((measured for measured in record.measurements if measured.get("device") == device), {})
