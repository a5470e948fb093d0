"""Aggregates results of a search: rates, Pareto front and hypervolume."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from manynet.records.conditions import Condition, Objective
from manynet.records.pareto import Floats, front, hypervolume_curve
from manynet.telemetry.search_status import Member, SearchStatus

WINDOW_SECONDS = 60.0
CURVE_POINTS = 60
MOST_MEMBERS = 200


class Result(NamedTuple):
    """Result of one candidate.

    Attributes:
        architecture: the candidate.
        metrics: ledger columns; empty where its evaluation failed.
        seconds: of an evaluator's time.
        at: when it arrived, seconds since 1970.
    """

    architecture: Mapping[str, Any]
    metrics: Mapping[str, float]
    seconds: float
    at: float


class SearchPlan(NamedTuple):
    """Static description of a monitored search.

    Attributes:
        study: address of the study's folder.
        space: name of the space.
        objectives: the first orders the front.
        conditions: bounds that architectures of the front must meet.
        evaluations: distinct architectures to reach.
        evaluators: candidates evaluated in parallel.
    """

    study: str
    space: str
    objectives: Sequence[Objective]
    conditions: Sequence[Condition]
    evaluations: int
    evaluators: int


class SearchTally:
    """Results in order of arrival. Takes timestamps as arguments.

    Args:
        plan: describes the search.
        earlier: evaluations of earlier starts, oldest first.
        at: when this start began, seconds since 1970.
    """

    def __init__(self, plan: SearchPlan, earlier: Sequence[Member], at: float) -> None:
        self.failed = 0
        self._plan, self._began = plan, at
        self._recent: list[Result] = []
        self._members: list[Member] = []
        self._rows: list[list[float]] = []
        for member in earlier:
            self._keep(member)

    @property
    def done(self) -> int:
        """Distinct architectures evaluated, earlier starts included."""
        return len(self._members)

    def add(self, result: Result) -> None:
        """Add a candidate's result."""
        self._recent.append(result)
        if result.metrics:
            self._keep(Member(architecture=dict(result.architecture), metrics=dict(result.metrics)))
        else:
            self.failed += 1

    def status(self, at: float, state: Literal["searching", "ended", "stopped"]) -> SearchStatus:
        """Status of the search at time ``at``, seconds since 1970."""
        # Batches arrive in any order: the oldest result need not be the first.
        self._recent = [result for result in self._recent if result.at >= at - WINDOW_SECONDS]
        seconds = max(min(WINDOW_SECONDS, at - self._began), 1e-3)
        rate = sum(bool(result.metrics) for result in self._recent) / seconds
        busy = sum(result.seconds for result in self._recent) / (seconds * self._plan.evaluators)
        left = max(self._plan.evaluations - self.done, 0)
        curve = self._curve()
        return SearchStatus(
            study=self._plan.study,
            space=self._plan.space,
            state=state,
            objectives=[str(objective) for objective in self._plan.objectives],
            constraints=[str(condition) for condition in self._plan.conditions],
            done=self.done,
            evaluations=self._plan.evaluations,
            failed=self.failed,
            evaluators=self._plan.evaluators,
            per_second=rate,
            seconds_left=left / rate if rate and state == "searching" else None,
            idle_share=min(max(1 - busy, 0.0), 1.0) if self._recent else None,
            hypervolume=curve[-1][1] if curve else 0.0,
            hypervolumes=curve,
            front=self._front(),
            updated=at,
        )

    def _keep(self, member: Member) -> None:
        feasible = all(condition.holds(member.metrics) for condition in self._plan.conditions)
        columns = [objective.column for objective in self._plan.objectives]
        self._members.append(member)
        self._rows.append(
            [member.metrics.get(column, math.nan) if feasible else math.nan for column in columns]
        )

    @property
    def _values(self) -> Floats:
        """(N, M) objectives; rows of NaN where a condition is not met."""
        return np.array(self._rows, dtype=np.float64).reshape(-1, len(self._plan.objectives))

    @property
    def _maximise(self) -> list[bool]:
        return [objective.maximise for objective in self._plan.objectives]

    def _front(self) -> list[Member]:
        first = self._plan.objectives[0]
        members = [self._members[index] for index in front(self._values, self._maximise)]
        members.sort(key=lambda member: member.metrics[first.column], reverse=first.maximise)
        return members[:MOST_MEMBERS]

    def _curve(self) -> list[tuple[int, float]]:
        """Pairs of evaluations and hypervolume, evenly spaced, the last evaluation included."""
        curve = hypervolume_curve(self._values, self._maximise)
        points = np.unique(np.linspace(1, len(curve), min(CURVE_POINTS, len(curve))).round().astype(int))
        return [(int(done), float(curve[done - 1])) for done in points]
