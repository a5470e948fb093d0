"""Tune callback that batches results for the monitor."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from ray import tune
from ray.air.constants import TIME_THIS_ITER_S

from manynet.search.tally import Result

SECONDS_BETWEEN = 0.5


class MonitorCallback(tune.Callback):
    """Sends results in batches: a call for each would cost the driver more than a quick candidate does.

    Args:
        send: takes a batch; must not block.
        columns: result columns to send.

    Attributes:
        sent: number of batches sent.
        rest: results not yet sent.
    """

    def __init__(self, send: Callable[[Sequence[Result]], object], columns: Sequence[str]) -> None:
        self._deliver, self._columns = send, columns
        self.sent = 0
        self.rest: list[Result] = []
        self._sent_at = 0.0

    def __getstate__(self) -> dict[str, Any]:
        # A Tuner pickles its callbacks to restore them. A search resumes from the ledger instead.
        return {}

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Record a result; one with none of the columns is a failure."""
        result = trial.last_result or {}
        values = {name: float(result[name]) for name in self._columns if name in result}
        self._note(trial.config, values, float(result.get(TIME_THIS_ITER_S, 0.0)))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Record the death of an evaluator as a failure."""
        self._note(trial.config, {}, 0.0)

    def _note(self, architecture: Any, values: dict[str, float], seconds: float) -> None:
        self.rest.append(Result(architecture, values, seconds, time.time()))
        if time.monotonic() - self._sent_at >= SECONDS_BETWEEN:
            self._send()

    def _send(self) -> None:
        batch, self.rest = self.rest, []
        self._deliver(batch)
        self.sent, self._sent_at = self.sent + 1, time.monotonic()
