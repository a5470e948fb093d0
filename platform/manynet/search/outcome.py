"""What becomes of one candidate: an evaluation or a failure, and how Tune's results carry either."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

from ray.tune.result import AUTO_RESULT_KEYS

_FAILURE, _HOPELESS, _DONE = "failure", "hopeless", "done"


@dataclass(frozen=True)
class Evaluation:
    """What is known of one architecture after it ran.

    Attributes:
        metrics: ledger columns: the task's, ``macs``, ``parameters``, ``latency@<device>`` (ms).
        measurements: the measurements behind the latencies, as the ledger keeps them.
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
        hopeless: whether every further candidate would meet it.
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
        result: the trial's last, with what Tune adds to it.
        died: whether its evaluator's process did.
    """
    if died or not result:
        return DIED
    if _FAILURE in result:
        return Failure(str(result[_FAILURE]), bool(result.get(_HOPELESS)))
    own = {name: value for name, value in result.items() if name not in (*AUTO_RESULT_KEYS, _DONE)}
    return {name: float(value) for name, value in own.items() if isinstance(value, Real)}
