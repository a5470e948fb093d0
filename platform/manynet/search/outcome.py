"""Outcome of one candidate, an evaluation or a failure, and its encoding in Tune's results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

from ray.tune.result import AUTO_RESULT_KEYS

_FAILURE, _HOPELESS, _DONE = "failure", "hopeless", "done"


@dataclass(frozen=True)
class Evaluation:
    """Metrics and measurements of one evaluated architecture.

    Attributes:
        metrics: ledger columns: the task's, ``macs``, ``parameters``, ``latency@<device>`` (ms).
        measurements: the latency measurements, as the ledger keeps them.
        details: anything else to keep.
    """

    metrics: Mapping[str, float]
    measurements: Sequence[Mapping[str, Any]] = ()
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Failure:
    """Why a candidate has no evaluation.

    Attributes:
        reason: the error, in one line.
        hopeless: whether every further candidate would fail in the same way.
    """

    reason: str
    hopeless: bool = False


DIED = Failure("the evaluator's process died")


def to_result(outcome: Evaluation | Failure) -> dict[str, Any]:
    """The result that a trial ends with."""
    if isinstance(outcome, Failure):
        return {_FAILURE: outcome.reason, _HOPELESS: outcome.hopeless, _DONE: True}
    return {**outcome.metrics, _DONE: True}


def from_result(result: Mapping[str, Any] | None, died: bool = False) -> dict[str, float] | Failure:
    """The metrics that a trial ended with, or why there are none.

    Args:
        result: the trial's last result, with Tune's own keys.
        died: whether the evaluator's process died.
    """
    if died or not result:
        return DIED
    if _FAILURE in result:
        return Failure(str(result[_FAILURE]), bool(result.get(_HOPELESS)))
    metrics = {name: value for name, value in result.items() if name not in (*AUTO_RESULT_KEYS, _DONE)}
    return {name: float(value) for name, value in metrics.items() if isinstance(value, Real)}
