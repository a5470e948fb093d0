"""Goals of a search: its objectives, and the conditions that a subnet must meet."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from manynet.records.conditions import (
    LATENCY,
    Condition,
    Objective,
    check_columns,
    latency_devices,
    parse_conditions,
    parse_objectives,
)


@dataclass(frozen=True)
class Goals:
    """Objectives and conditions, parsed and checked once.

    Attributes:
        objectives: ledger columns and their directions; the first is every plot's vertical axis.
        conditions: bounds on ledger columns.
    """

    objectives: tuple[Objective, ...]
    conditions: tuple[Condition, ...] = ()

    @classmethod
    def parse(
        cls,
        objectives: Sequence[str] | None,
        conditions: str | Sequence[str],
        metric: str,
        columns: Iterable[str],
    ) -> Goals:
        """Read goals as a user writes them.

        Args:
            objectives: ``accuracy:max``...; None means the metric, and latency on this host.
            conditions: ``parameters <= 1e6``...
            metric: the task's main metric.
            columns: all of the task's metrics.

        Raises:
            ConditionError: one is malformed, or names a column that no evaluation has.
        """
        default = [f"{metric}:max", f"{LATENCY}host/torch:min"]
        goals = cls(
            tuple(parse_objectives(default if objectives is None else objectives)),
            tuple(parse_conditions(conditions)),
        )
        check_columns([*goals.objectives, *goals.conditions], columns)
        return goals

    @property
    def columns(self) -> list[str]:
        """Distinct ledger columns of all goals."""
        return list(
            dict.fromkeys([*(o.column for o in self.objectives), *(c.column for c in self.conditions)])
        )

    @property
    def devices(self) -> list[str]:
        """Distinct names of the devices of latency goals."""
        return latency_devices([*self.objectives, *self.conditions])

    def feasible(self, metrics: Mapping[str, float]) -> bool:
        """Whether ``metrics`` meet every condition."""
        return all(condition.holds(metrics) for condition in self.conditions)
