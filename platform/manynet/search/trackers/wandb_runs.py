"""Candidates as runs of a Weights & Biases project."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any

import ray
import wandb
from ray.air.integrations.wandb import WandbLoggerCallback
from ray.tune.experiment import Trial
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from manynet.search.trackers.results import failure, metrics

logger = logging.getLogger(__name__)
SECONDS_TO_END = 1800.0
"""Limit for uploading runs at the end of a search."""


class Runs:
    """Actor that holds the open runs of all candidates.

    Args:
        environment: the driver's environment variables for W&B.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        os.environ.update(environment)
        self._runs: dict[str, wandb.Run] = {}

    def begin(self, run: str, arguments: Mapping[str, Any]) -> None:
        """Begin a run."""
        self._runs[run] = wandb.init(**arguments)

    def end(self, run: str, metrics: Mapping[str, float], failure: str) -> None:
        """Log a candidate's outcome, and end its run."""
        begun = self._runs.pop(run)
        if failure:
            begun.summary["failure"] = failure
        else:
            begun.log(dict(metrics))
        begun.finish(exit_code=1 if failure else 0)

    def end_all(self) -> None:
        """End the runs that a stopped search left open."""
        for begun in self._runs.values():
            begun.finish(exit_code=1)
        self._runs = {}


class WandbRuns(WandbLoggerCallback):
    """Tune's callback, with failures marked, and one process for all candidates instead of two for each.

    Tune would start two processes a candidate beside the evaluators, where they take seconds of the cores that latency
    is measured on, and pass the key in a runtime environment, which Ray writes to its logs.

    Args:
        project: ``project`` or ``entity/project``.
        group: of the runs.
        study: address of the study, noted in each run.
    """

    def __init__(self, project: str, group: str, study: str) -> None:
        entity, _, name = project.rpartition("/")
        self._study = study
        self._actor: Any = None
        # W&B would start threads that monitor the machine and its output for each candidate.
        quiet = wandb.Settings(
            x_disable_stats=True,
            x_disable_meta=True,
            console="off",
            disable_git=True,
            disable_code=True,
            silent=True,
        )
        super().__init__(
            project=name,
            group=group,
            entity=entity or None,
            dir=os.environ.get("WANDB_DIR") or os.getcwd(),
            settings=quiet,
        )

    def __getstate__(self) -> dict[str, Any]:
        # A Tuner pickles its callbacks to restore them. A search resumes from the ledger instead.
        return {}

    def __del__(self) -> None:
        # Tune's callback ends its own processes here; there are none.
        return

    def _start_logging_actor(self, trial: Trial, exclude_results: list[str], **arguments: Any) -> None:
        if self._actor is None:
            here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
            own = {key: value for key, value in os.environ.items() if key.startswith("WANDB_")}
            self._actor = ray.remote(Runs).options(num_cpus=0, scheduling_strategy=here).remote(own)
        arguments |= {"reinit": "create_new", "notes": self._study}
        self._actor.begin.remote(trial.trial_id, arguments)

    def log_trial_result(self, iteration: int, trial: Trial, result: Mapping[str, Any]) -> None:
        """Do nothing: a candidate's one result is logged when its trial ends."""

    def log_trial_end(self, trial: Trial, failed: bool = False) -> None:
        """Log a candidate's outcome, and end its run."""
        if self._actor is None:
            return
        reason = failure(trial.last_result, failed)
        self._actor.end.remote(trial.trial_id, {} if reason else metrics(trial.last_result), reason)

    def on_experiment_end(self, trials: list[Trial], **info: Any) -> None:
        """Wait until all runs are uploaded."""
        if self._actor is None:
            return
        try:
            ray.get(self._actor.end_all.remote(), timeout=SECONDS_TO_END)
        except ray.exceptions.RayError as error:
            logger.warning("W&B did not get all candidates: %s", str(error).strip().splitlines()[-1])
        ray.kill(self._actor)
        self._actor = None
