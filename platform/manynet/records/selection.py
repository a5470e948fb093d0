"""Which evaluated subnets go further: winners to fine-tune, and anchors to train alone."""

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

    When the front has fewer than ``count``, the fronts behind it fill up.

    Args:
        records: evaluations.
        objectives: what the front is over.
        conditions: what a winner must meet.
        count: how many; fewer come back only when fewer meet the conditions.
        kept: keys of records that come first where their front has a place.
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
    """Records evenly spaced by their rank in ``column``, from worst to best; those with ``kept`` keys come first."""
    ranked = sorted((r for r in records if column in r.metrics), key=lambda r: (r.metrics[column], r.key))
    return _spread(ranked, count, kept)


def _complete(record: Record, objectives: Sequence[Objective]) -> bool:
    return all(objective.column in record.metrics for objective in objectives)


def _spread(records: Sequence[Record], count: int, kept: Collection[str]) -> list[Record]:
    """At most ``count`` records, in order and evenly spaced, both ends included.

    Around kept ones, those that are farthest from all chosen ones follow.
    """
    chosen = [at for at, record in enumerate(records) if record.key in kept]
    if len(chosen) >= count:
        return [records[chosen[at]] for at in _evenly(len(chosen), count)]
    if not chosen:
        return [records[at] for at in _evenly(len(records), count)]
    while len(chosen) < min(count, len(records)):
        distances = [min(abs(at - other) for other in chosen) for at in range(len(records))]
        chosen.append(int(np.argmax(distances)))
    return [records[at] for at in sorted(chosen)]


def _evenly(available: int, count: int) -> list[int]:
    """At most ``count`` different indices, evenly over ``range(available)``, both ends included."""
    return sorted({int(i) for i in np.linspace(0, available - 1, min(count, available)).round()})
