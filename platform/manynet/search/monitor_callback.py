"""Carries what Tune hears of candidates to the search's monitor."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ray import tune
from ray.air.constants import TIME_THIS_ITER_S

from manynet.search.tally import Result

if TYPE_CHECKING:
    from ray.actor import ActorProxy

    from manynet.search.monitor import Monitor

SECONDS_BETWEEN = 0.5


class Telling(tune.Callback):
    """Sends results in batches: a call for each would cost the driver more than a quick candidate does.

    Args:
        monitor: is told, and not waited for.
        columns: of a result that are told.
    """

    def __init__(self, monitor: ActorProxy[Monitor], columns: Sequence[str]) -> None:
        self._monitor, self._columns = monitor, columns
        self._results: list[Result] = []
        self._sent = 0.0

    def __getstate__(self) -> dict[str, Any]:
        # A Tuner pickles its callbacks so that it can be restored. This search never is: see the ledger.
        return {}

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Take down a result; one that holds none of the columns is a failure."""
        result = trial.last_result or {}
        values = {name: float(result[name]) for name in self._columns if name in result}
        self._note(trial.config, values, float(result.get(TIME_THIS_ITER_S, 0.0)))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Take down that an evaluator died."""
        self._note(trial.config, {}, 0.0)

    def flush(self) -> None:
        """Send what was not sent yet."""
        if self._results:
            self._monitor.note.remote(self._results)
        self._results, self._sent = [], time.monotonic()

    def _note(self, architecture: Any, values: dict[str, float], seconds: float) -> None:
        self._results.append(Result(architecture, values, seconds, time.time()))
        if time.monotonic() - self._sent >= SECONDS_BETWEEN:
            self.flush()
