"""What a user asks of a subnet, as text: conditions (`parameters <= 2e5`) and objectives (`accuracy:max`)."""

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
    """A condition or an objective is misspelt, or names a column that does not exist."""


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
        """How far ``metrics`` are from the bound: <= 0 is feasible.

        The distance is a share of the bound (absolute where the bound is 0), because samplers add up the
        violations of conditions whose units differ. A missing or NaN value is infinitely far.
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
    """A ledger column to be made as large, or as small, as possible."""

    column: str
    maximise: bool

    def __str__(self) -> str:
        return f"{self.column}:{'max' if self.maximise else 'min'}"

    @property
    def direction(self) -> str:
        """Optuna's word for it: ``maximize`` or ``minimize``."""
        return "maximize" if self.maximise else "minimize"


def parse_conditions(text: str | Sequence[str]) -> list[Condition]:
    """Read ``<column> <op> <number>``, joined by ``and``; a list of such texts is joined too. Blank text asks for nothing.

    Raises:
        ConditionError: the text has another form. Spaces around the operator are required, since a column
            may itself contain ``=`` and ``<``.
    """
    texts = [text] if isinstance(text, str) else text
    return [_condition(clause, one) for one in texts if one.strip() for clause in _clauses(one)]


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
        ConditionError: the text has another form.
    """
    column, _, direction = text.rpartition(":")
    if not column or any(map(str.isspace, column)) or direction not in ("max", "min"):
        raise ConditionError(f"an objective must be '<column>:max' or '<column>:min', but got {text!r}")
    return Objective(column, direction == "max")


def parse_objectives(texts: Sequence[str]) -> list[Objective]:
    """Read objectives, in order.

    Raises:
        ConditionError: there is none, one has another form, or two name the same column.
    """
    objectives = [parse_objective(text) for text in texts]
    if not objectives:
        raise ConditionError("objectives must name at least one column, but got none")
    seen: set[str] = set()
    for objective in objectives:
        if objective.column in seen:
            raise ConditionError(f"objectives must name each column once, but got {objective.column!r} twice")
        seen.add(objective.column)
    return objectives


def check_columns(wanted: Iterable[Condition | Objective], metrics: Iterable[str]) -> None:
    """Refuse columns that are neither one of a task's ``metrics``, nor a cost, nor ``latency@<device>``.

    Raises:
        ConditionError: for the first unknown column.
    """
    allowed = (*metrics, *COST)
    for one in wanted:
        if one.column in allowed or one.column.startswith(LATENCY) and one.column != LATENCY:
            continue
        raise ConditionError(
            f"columns are {', '.join(allowed)} and {LATENCY}<device>, but got {one.column!r} in '{one}'"
        )


def latency_devices(wanted: Iterable[Condition | Objective]) -> list[str]:
    """Names of the devices whose latency is asked for, each once, in order of appearance."""
    columns = [one.column for one in wanted if one.column.startswith(LATENCY)]
    return list(dict.fromkeys(column.removeprefix(LATENCY) for column in columns))
