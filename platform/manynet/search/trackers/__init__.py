"""Experiment trackers: MLflow and Weights & Biases log each candidate through Tune's own callbacks."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from manynet.errors import ManynetError, first_line
from manynet.storage import basename

if TYPE_CHECKING:
    from ray import tune

FORMS = ("mlflow", "mlflow:ADDRESS", "wandb", "wandb:PROJECT")
SQLITE = "sqlite:///"


class TrackerError(ManynetError):
    """A tracker is malformed, not installed, or cannot be reached."""


def check(trackers: Sequence[str]) -> None:
    """Reject trackers that cannot be reached, before anything expensive starts.

    A missing MLflow database is created; a Weights & Biases key is verified with its server.

    Raises:
        TrackerError: for the first of them.
    """
    for tracker in trackers:
        tool, address = _parts(tracker)
        if find_spec(tool) is None:
            raise TrackerError(
                f"tracker {tracker!r} needs the package {tool}, but it is not installed: pip install 'manynet[trackers]'"
            )
        if tool == "mlflow":
            _check_mlflow(_store(address))
        else:
            _check_wandb()


def callbacks(trackers: Sequence[str], study: str) -> list[tune.Callback]:
    """Tune callbacks that log candidates to the trackers of a search.

    Each candidate is a run: the architecture as parameters, the ledger's columns as metrics. Runs of one study
    share an MLflow experiment or a Weights & Biases group, named after the study's folder, also after a resume.

    Args:
        trackers: as :func:`check` takes them. A missing address or project comes from the tools' own environment
            variables; without those, the project has the study's name.
        study: address of the study's folder.

    Raises:
        TrackerError: one is malformed.
    """
    loggers: list[tune.Callback] = []
    for tracker in trackers:
        tool, address = _parts(tracker)
        # Importing either tool takes seconds, which a search without it must not wait.
        if tool == "mlflow":
            from manynet.search.trackers.mlflow_runs import MLflowRuns

            experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME") or basename(study)
            loggers.append(MLflowRuns(_store(address), experiment, study))
        else:
            from manynet.search.trackers.wandb_runs import WandbRuns

            project = address or os.environ.get("WANDB_PROJECT") or basename(study)
            loggers.append(WandbRuns(project, basename(study), study))
    return loggers


def _parts(tracker: str) -> tuple[str, str]:
    tool, colon, address = tracker.partition(":")
    if tool not in ("mlflow", "wandb") or bool(colon) != bool(address):
        raise TrackerError(f"a tracker must be one of {', '.join(FORMS)}, but got {tracker!r}")
    return tool, address


def _store(address: str) -> str:
    """The address of an MLflow store, independent of the working directory."""
    if not address:
        import mlflow

        address = mlflow.get_tracking_uri()
    if address.startswith(SQLITE) and not address.startswith(f"{SQLITE}/"):
        return f"{SQLITE}{Path(address.removeprefix(SQLITE)).absolute()}"
    return address


def _check_mlflow(store: str) -> None:
    if urlsplit(store).scheme in ("", "file") and store != "databricks":
        raise TrackerError(
            f"an MLflow store must be a database or a server, such as sqlite:///mlflow.db or https://..., "
            f"since MLflow no longer stores runs in files, but got {store!r}"
        )
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        MlflowClient(store)
    except (MlflowException, SQLAlchemyError, OSError, ImportError) as error:
        raise TrackerError(
            f"an MLflow store must be one that MLflow opens, but got {store!r}: {first_line(error)}"
        ) from None


def _check_wandb() -> None:
    if os.environ.get("WANDB_MODE") in ("offline", "disabled"):
        return
    import wandb

    try:
        has_key = wandb.login(prompt=False)
    except wandb.Error as error:
        raise TrackerError(
            f"tracker wandb needs a key that its server accepts: {first_line(error)}"
        ) from None
    if not has_key:
        raise TrackerError(
            "tracker wandb needs a key, but found none: set WANDB_API_KEY, run `wandb login`, "
            "or set WANDB_MODE=offline"
        )
