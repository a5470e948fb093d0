"""Selects evaluated subnets: winners to fine-tune, and anchors to train alone."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from manynet.records.conditions import Condition, Objective
from manynet.records.ledger import Record
from manynet.records.pareto import front


def winners(
    records: Sequence[Record],
    objectives: Sequence[Objective],
    conditions: Sequence[Condition],
    count: int,
    kept: Collection[str] = (),
) -> list[Record]:
    """Records spread over the Pareto front, its two ends included; best by the first objective first.

    When the front has fewer than ``count``, the next fronts fill up.

    Args:
        records: evaluations.
        objectives: of the front.
        conditions: bounds that a winner must meet.
        count: number of records; fewer only when fewer meet the conditions.
        kept: keys of records that are preferred within their front.
    """
    left = [r for r in records if _complete(r, objectives) and all(c.holds(r.metrics) for c in conditions)]
    chosen: list[Record] = []
    while left and len(chosen) < count:
        values = [[r.metrics[o.column] for o in objectives] for r in left]
        indices = front(values, [o.maximise for o in objectives])
        first = objectives[0]
        members = sorted(
            (left[i] for i in indices), key=lambda r: r.metrics[first.column], reverse=first.maximise
        )
        chosen += _spread(members, count - len(chosen), kept)
        left = [r for i, r in enumerate(left) if i not in set(indices.tolist())]
    return sorted(chosen, key=lambda r: r.metrics[objectives[0].column], reverse=objectives[0].maximise)


def anchors(records: Sequence[Record], column: str, count: int, kept: Collection[str] = ()) -> list[Record]:
    """Records evenly spaced by rank in ``column``, from worst to best; those with ``kept`` keys are preferred."""
    ranked = sorted((r for r in records if column in r.metrics), key=lambda r: (r.metrics[column], r.key))
    return _spread(ranked, count, kept)


def _complete(record: Record, objectives: Sequence[Objective]) -> bool:
    return all(objective.column in record.metrics for objective in objectives)


def _spread(records: Sequence[Record], count: int, kept: Collection[str]) -> list[Record]:
    """At most ``count`` records, in order and evenly spaced, both ends included.

    Kept ones are chosen first, then repeatedly the one farthest from all chosen.
    """
    chosen = [index for index, record in enumerate(records) if record.key in kept]
    if len(chosen) >= count:
        return [records[chosen[index]] for index in _evenly(len(chosen), count)]
    if not chosen:
        return [records[index] for index in _evenly(len(records), count)]
    while len(chosen) < min(count, len(records)):
        distances = [min(abs(index - other) for other in chosen) for index in range(len(records))]
        chosen.append(int(np.argmax(distances)))
    return [records[index] for index in sorted(chosen)]


def _evenly(available: int, count: int) -> list[int]:
    """At most ``count`` distinct indices, evenly spaced over ``range(available)``, both ends included."""
    return sorted({int(i) for i in np.linspace(0, available - 1, min(count, available)).round()})
