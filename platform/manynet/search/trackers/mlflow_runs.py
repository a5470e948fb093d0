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
    """Tune's callback, with failures marked, and one request a candidate instead of one a value.

    Args:
        store: address of a database or a server.
        experiment: name; an existing experiment is continued.
        study: address of the study, a tag of each run.
    """

    def __init__(self, store: str, experiment: str, study: str) -> None:
        super().__init__(
            store, experiment_name=experiment, tags={"study": study}, log_params_on_trial_end=True
        )

    def __getstate__(self) -> dict[str, Any]:
        # A Tuner pickles its callbacks to restore them. A search resumes from the ledger instead.
        return {}

    def setup(self, *args: Any, **kwargs: Any) -> None:
        """Open or create the experiment.

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
        with _errors_logged():
            super().log_trial_start(trial)

    def log_trial_result(self, iteration: int, trial: Trial, result: Mapping[str, Any]) -> None:
        """Do nothing: a candidate's one result is logged when its trial ends."""

    def log_trial_end(self, trial: Trial, failed: bool = False) -> None:
        """Log a candidate's outcome, and end its run."""
        run = self._trial_runs.pop(trial, None)
        if run is None:
            return
        reason = failure(trial.last_result, failed)
        now = int(time.time() * 1000)
        with _errors_logged():
            client = MlflowClient(self.tracking_uri)
            client.log_batch(
                run,
                metrics=[]
                if reason
                else [Metric(_name(k), v, now, 0) for k, v in metrics(trial.last_result).items()],
                params=[Param(_name(key), str(value)) for key, value in trial.config.items()],
                tags=[RunTag("failure", reason)] if reason else [],
            )
            client.set_terminated(run, "FAILED" if reason else "FINISHED")

    def on_experiment_end(self, trials: list[Trial], **info: Any) -> None:
        """End the runs that a stopped search left open."""
        for trial in list(self._trial_runs):
            with _errors_logged():
                MlflowClient(self.tracking_uri).set_terminated(self._trial_runs.pop(trial), "KILLED")


@contextmanager
def _errors_logged() -> Iterator[None]:
    """Log errors of the store instead of raising: an outage must not end a search, and the ledger has all results."""
    try:
        yield
    except MlflowException as error:
        logger.warning("MLflow did not get a candidate: %s", first_line(error))


def _name(column: str) -> str:
    """A valid MLflow name: MLflow rejects characters such as those of ``latency@host/torch?batch=8``."""
    return re.sub(r"[^\w.\- /:]", "_", column)
