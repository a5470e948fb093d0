"""Parses conditions (`parameters <= 2e5`) and objectives (`accuracy:max`) on ledger columns."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from manynet.errors import ManynetError

OPERATORS = ("<=", ">=", "<", ">", "==")
LATENCY = "latency@"
COST = ("macs", "parameters")
"""Columns known before an architecture is evaluated."""


class ConditionError(ManynetError, ValueError):
    """A condition or an objective is malformed, or names a column that does not exist."""


@dataclass(frozen=True)
class Condition:
    """One bound on one ledger column.

    Attributes:
        column: a ledger column, taken literally, e.g. ``latency@host/torch?batch=8&threads=2``.
        operator: one of ``<=``, ``>=``, ``<``, ``>``, ``==``.
        bound: in the column's unit (latency in ms).
    """

    column: str
    operator: str
    bound: float

    def __str__(self) -> str:
        return f"{self.column} {self.operator} {self.bound:.12g}"

    def holds(self, metrics: Mapping[str, float]) -> bool:
        """Whether ``metrics`` meet the bound; a missing or NaN value does not."""
        return self.violation(metrics) <= 0

    def violation(self, metrics: Mapping[str, float]) -> float:
        """Signed distance of ``metrics`` from the bound: <= 0 is feasible.

        The distance is relative to the bound (absolute if the bound is 0), because samplers add up the
        violations of conditions in different units. For a missing or NaN value it is infinite.
        """
        value = metrics.get(self.column, math.nan)
        if math.isnan(value):
            return math.inf
        gap = value - self.bound if self.operator.startswith("<") else self.bound - value
        if self.operator == "==":
            gap = abs(gap)
        if gap == 0 and self.operator in ("<", ">"):
            gap = math.ulp(self.bound)
        return gap / (abs(self.bound) or 1.0)


@dataclass(frozen=True)
class Objective:
    """A ledger column to maximise or minimise."""

    column: str
    maximise: bool

    def __str__(self) -> str:
        return f"{self.column}:{'max' if self.maximise else 'min'}"

    @property
    def direction(self) -> str:
        """Optuna's word for it: ``maximize`` or ``minimize``."""
        return "maximize" if self.maximise else "minimize"


def parse_conditions(text: str | Sequence[str]) -> list[Condition]:
    """Read ``<column> <op> <number>``, joined by ``and``; a list of texts is joined too. Blank text gives no condition.

    Raises:
        ConditionError: the text is malformed. Spaces around the operator are required, since a column
            may itself contain ``=`` and ``<``.
    """
    texts = [text] if isinstance(text, str) else text
    return [_condition(words, part) for part in texts if part.strip() for words in _clauses(part)]


def _clauses(text: str) -> list[list[str]]:
    clauses: list[list[str]] = [[]]
    for word in text.split():
        if word == "and":
            clauses.append([])
        else:
            clauses[-1].append(word)
    return clauses


def _condition(words: list[str], text: str) -> Condition:
    if len(words) != 3 or words[1] not in OPERATORS:
        raise ConditionError(
            f"conditions are '<column> <op> <number>' joined by 'and', with spaces around the operator "
            f"({', '.join(OPERATORS)}), but got {' '.join(words)!r} in {text!r}"
        )
    column, operator, number = words
    try:
        bound = float(number)
    except ValueError:
        bound = math.nan
    if not math.isfinite(bound):
        raise ConditionError(f"a condition's bound must be a finite number, but got {number!r} in {text!r}")
    return Condition(column, operator, bound)


def parse_objective(text: str) -> Objective:
    """Read ``<column>:max`` or ``<column>:min``.

    Raises:
        ConditionError: the text is malformed.
    """
    column, _, direction = text.rpartition(":")
    if not column or any(map(str.isspace, column)) or direction not in ("max", "min"):
        raise ConditionError(f"an objective must be '<column>:max' or '<column>:min', but got {text!r}")
    return Objective(column, direction == "max")


def parse_objectives(texts: Sequence[str]) -> list[Objective]:
    """Read objectives, in order.

    Raises:
        ConditionError: there is none, one is malformed, or two name the same column.
    """
    objectives = [parse_objective(text) for text in texts]
    if not objectives:
        raise ConditionError("objectives must name at least one column, but got none")
    columns: set[str] = set()
    for objective in objectives:
        if objective.column in columns:
            raise ConditionError(f"objectives must name each column once, but got {objective.column!r} twice")
        columns.add(objective.column)
    return objectives


def check_columns(goals: Iterable[Condition | Objective], metrics: Iterable[str]) -> None:
    """Reject columns that are neither one of a task's ``metrics``, nor a cost, nor ``latency@<device>``.

    Raises:
        ConditionError: for the first unknown column.
    """
    allowed = (*metrics, *COST)
    for goal in goals:
        if goal.column in allowed or goal.column.startswith(LATENCY) and goal.column != LATENCY:
            continue
        raise ConditionError(
            f"columns are {', '.join(allowed)} and {LATENCY}<device>, but got {goal.column!r} in '{goal}'"
        )


def latency_devices(goals: Iterable[Condition | Objective]) -> list[str]:
    """Distinct names of the devices of latency columns, in order of appearance."""
    columns = [goal.column for goal in goals if goal.column.startswith(LATENCY)]
    return list(dict.fromkeys(column.removeprefix(LATENCY) for column in columns))
