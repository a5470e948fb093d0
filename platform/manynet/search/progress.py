"""Search progress: a bar on a terminal; elsewhere a log line and Tune's trial table at every tenth."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any, Self

from ray import tune

# Tune prints its table through reporters only, and a search's verbosity silences them.
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
    """Tune's own table of trials, best first, for a job's log.

    Args:
        trials: Tune's trials; those without the objective, which failed or run, are left out.
        objective: sorts the finished candidates.
        columns: metrics to show.
        keys: architecture keys to show.
    """
    # Tune sorts by the objective, and cannot where one has none.
    finished = [trial for trial in trials if objective.column in (trial.last_result or {})]
    table: str = _trial_progress_str(
        finished,
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
    """Shows finished candidates, the best value of the first objective, and candidates a second.

    Used as a context manager around ``Tuner.fit``, so that the bar ends however the search does.

    Args:
        searcher: holds the finished candidates.
        objectives: the first one's best value is shown.
        conditions: bounds that the best must meet.
        keys: architecture keys, the most important first.
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
        # A Tuner pickles its callbacks to restore them. A search resumes from the ledger instead.
        return {}

    def __enter__(self) -> Self:
        self._bar.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.__exit__(*error)

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Note that an evaluator has started."""
        self._waits = False

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Warn once when no evaluator starts: Ray waits without limit and without a message."""
        if self._waits and time.monotonic() - self._start > PATIENCE_SECONDS:
            self._waits = False
            logger.warning(
                "search: no evaluator has started for %.0f s: the cluster's CPUs are taken, or its nodes cannot "
                "start processes (`ray status` and the dashboard tell which)",
                PATIENCE_SECONDS,
            )

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Update the display; Tune has called the searcher before."""
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
        # The best so far has this column alone: it met the conditions when it was new.
        feasible = [m[column] for m in metrics if column in m and (len(m) == 1 or self._feasible(m))]
        return max(feasible, key=lambda value: sign * value, default=-sign * float("inf"))

    def _feasible(self, metrics: Mapping[str, float]) -> bool:
        return all(condition.holds(metrics) for condition in self._conditions)

    def _status(self, rate: float) -> str:
        return f"best {self._objective.column} {self._best:.4g}, {rate:.2f}/s"
