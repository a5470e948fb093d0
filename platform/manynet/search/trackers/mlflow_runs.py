"""Candidates as runs of an MLflow experiment."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from ray.air.integrations.mlflow import MLflowLoggerCallback
from ray.tune.experiment import Trial

from manynet.errors import ManynetError, first_line
from manynet.search.trackers.results import failure, metrics

logger = logging.getLogger(__name__)


class MLflowError(ManynetError):
    """A search's MLflow store cannot be used."""


class MLflowRuns(MLflowLoggerCallback):
    """Tune's callback, which takes a failure for one, and tells a candidate in one request, not one a value.

    Args:
        store: address of a database or a server.
        experiment: name; one of that name that is there goes on.
        study: address of the study, a tag of each run.
    """

    def __init__(self, store: str, experiment: str, study: str) -> None:
        super().__init__(
            store, experiment_name=experiment, tags={"study": study}, log_params_on_trial_end=True
        )

    def __getstate__(self) -> dict[str, Any]:
        # A Tuner pickles its callbacks so that it can be restored. This search never is: see the ledger.
        return {}

    def setup(self, *args: Any, **kwargs: Any) -> None:
        """Find the experiment, or make it.

        Raises:
            MLflowError: the store cannot be used.
        """
        try:
            super().setup(*args, **kwargs)  # type: ignore[no-untyped-call]
        except MlflowException as error:
            raise MLflowError(
                f"MLflow must take the experiment {self.experiment_name!r} at {self.tracking_uri}, "
                f"but says: {first_line(error)}"
            ) from None

    def log_trial_start(self, trial: Trial) -> None:
        """Begin a run."""
        with _forgiven():
            super().log_trial_start(trial)

    def log_trial_result(self, iteration: int, trial: Trial, result: Mapping[str, Any]) -> None:
        """Nothing: a candidate has one result, and it is told when it ends."""

    def log_trial_end(self, trial: Trial, failed: bool = False) -> None:
        """Tell all of a candidate, and end its run."""
        run = self._trial_runs.pop(trial, None)
        if run is None:
            return
        why = failure(trial.last_result, failed)
        now = int(time.time() * 1000)
        with _forgiven():
            client = MlflowClient(self.tracking_uri)
            client.log_batch(
                run,
                metrics=[]
                if why
                else [Metric(_name(k), v, now, 0) for k, v in metrics(trial.last_result).items()],
                params=[Param(_name(key), str(value)) for key, value in trial.config.items()],
                tags=[RunTag("failure", why)] if why else [],
            )
            client.set_terminated(run, "FAILED" if why else "FINISHED")

    def on_experiment_end(self, trials: list[Trial], **info: Any) -> None:
        """End the runs of candidates that a search left behind when it was stopped."""
        for trial in list(self._trial_runs):
            with _forgiven():
                MlflowClient(self.tracking_uri).set_terminated(self._trial_runs.pop(trial), "KILLED")


@contextmanager
def _forgiven() -> Iterator[None]:
    """A store that is away for a while ends no search: the ledger has it all."""
    try:
        yield
    except MlflowException as error:
        logger.warning("MLflow was not told of a candidate: %s", first_line(error))


def _name(column: str) -> str:
    """A name that MLflow takes: ``latency@host/torch?batch=8`` has characters that it refuses."""
    return re.sub(r"[^\w.\- /:]", "_", column)
