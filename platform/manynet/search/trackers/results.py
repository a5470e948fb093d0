"""Reads metrics and failures from Tune's results, for trackers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from manynet.search.outcome import Failure, from_result


def metrics(result: Mapping[str, Any]) -> dict[str, float]:
    """The ledger's columns; empty for a failure."""
    outcome = from_result(result)
    return {} if isinstance(outcome, Failure) else outcome


def failure(result: Mapping[str, Any] | None, died: bool) -> str:
    """Reason of a failure in one line; empty after success."""
    outcome = from_result(result, died)
    return outcome.reason if isinstance(outcome, Failure) else ""
