"""How far a search is: a bar on a terminal; elsewhere, for every tenth, a log line and Tune's table of candidates."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any, Self

from ray import tune

# Tune shows its table through reporters only, which are silent at the verbosity of a search.
from ray.tune.progress_reporter import _trial_progress_str
from rich.console import Console

from manynet.records.conditions import Condition, Objective
from manynet.search.searcher import ArchitectureSearcher
from manynet.telemetry.progress_bar import ProgressBar

logger = logging.getLogger(__name__)
ROWS, KEYS = 10, 4
PATIENCE_SECONDS = 60.0


def trial_table(
    trials: Sequence[Any], objective: Objective, columns: Sequence[str], keys: Sequence[str]
) -> str:
    """Tune's own table of trials, best first: a job's log is the only page that it has for them.

    Args:
        trials: Tune's.
        objective: orders the candidates that are done.
        columns: metrics that are shown.
        keys: of architectures that are shown.
    """
    table: str = _trial_progress_str(
        list(trials),
        metric_columns=list(columns),
        parameter_columns=list(keys),
        force_table=True,
        max_rows=ROWS,
        metric=objective.column,
        mode="max" if objective.maximise else "min",
        sort_by_metric=True,
    )
    return table


class Progress(tune.Callback):
    """Shows candidates done, the best of the first objective, and candidates a second.

    Used as a context manager around ``Tuner.fit``, so that the bar ends however the search does.

    Args:
        searcher: knows what is done.
        objectives: of the first, the best is shown.
        conditions: what the best must meet.
        keys: of architectures, the most telling first.
        console: where the bar is drawn.
    """

    def __init__(
        self,
        searcher: ArchitectureSearcher,
        objectives: Sequence[Objective],
        conditions: Sequence[Condition],
        keys: Sequence[str],
        console: Console | None = None,
    ) -> None:
        self._searcher, self._objective, self._conditions = searcher, objectives[0], conditions
        shown = dict.fromkeys([*(o.column for o in objectives), *(c.column for c in conditions)])
        self._columns, self._keys = list(shown), keys[:KEYS]
        self._earlier = len(searcher.done)
        self._best = self._best_of(*searcher.done.values())
        self._bar = ProgressBar(
            "search", searcher.evaluations, done=self._earlier, status=self._status(0.0), console=console
        )
        self._start = time.monotonic()
        self._waits = True

    def __getstate__(self) -> dict[str, Any]:
        # A Tuner pickles its callbacks so that it can be restored. This search never is: see the ledger.
        return {}

    def __enter__(self) -> Self:
        self._bar.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.__exit__(*error)

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """An evaluator is there."""
        self._waits = False

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Say so, once, when no evaluator comes: Ray waits for as long as it takes, and says nothing."""
        if self._waits and time.monotonic() - self._start > PATIENCE_SECONDS:
            self._waits = False
            logger.warning(
                "search: no evaluator has started for %.0f s: the cluster's CPUs are taken, or its nodes cannot "
                "start processes (`ray status` and the dashboard tell which)",
                PATIENCE_SECONDS,
            )

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Count a candidate; Tune told the searcher before."""
        self._best = self._best_of({self._objective.column: self._best}, trial.last_result)
        done = len(self._searcher.done)
        status = self._status((done - self._earlier) / (time.monotonic() - self._start))
        self._bar.update(done, status=status)
        tenth = max(1, self._searcher.evaluations // 10)
        if not self._bar.on_terminal and done % tenth == 0:
            logger.info("search: %d of %d, %s", done, self._searcher.evaluations, status)
            logger.info("%s", trial_table(trials, self._objective, self._columns, self._keys))

    def _best_of(self, *metrics: Mapping[str, float]) -> float:
        sign = 1.0 if self._objective.maximise else -1.0
        column = self._objective.column
        # The best so far comes back in with no other column: it met the conditions when it was new.
        fit = [m[column] for m in metrics if column in m and (len(m) == 1 or self._feasible(m))]
        return max(fit, key=lambda value: sign * value, default=-sign * float("inf"))

    def _feasible(self, metrics: Mapping[str, float]) -> bool:
        return all(condition.holds(metrics) for condition in self._conditions)

    def _status(self, rate: float) -> str:
        return f"best {self._objective.column} {self._best:.4g}, {rate:.2f}/s"
