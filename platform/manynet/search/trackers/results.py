"""What a tracker is told of a candidate, from Tune's trial of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray.tune.result import AUTO_RESULT_KEYS

from manynet.search.evaluator import FAILURE, HOPELESS


def metrics(result: Mapping[str, Any]) -> dict[str, float]:
    """The ledger's columns, without what Tune adds to them."""
    own = {key: value for key, value in result.items() if key not in (*AUTO_RESULT_KEYS, "done", HOPELESS)}
    return {key: float(value) for key, value in own.items() if isinstance(value, int | float)}


def failure(result: Mapping[str, Any] | None, died: bool) -> str:
    """Why there are no metrics: one line; empty where all went well."""
    if died or not result:
        return "the evaluator's process died"
    return str(result.get(FAILURE, ""))
