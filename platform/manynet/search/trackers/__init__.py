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
    """A tracker is misspelt, not installed, or cannot be reached."""


def check(trackers: Sequence[str]) -> None:
    """Refuse trackers that cannot be reached, before anything expensive starts.

    An MLflow database that is not there yet is made; a key for Weights & Biases is shown to its server.

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

    Each candidate is a run: its architecture are parameters, its metrics those of the ledger. Runs of one study are
    together, also those of a search that was resumed: in MLflow by the experiment, in Weights & Biases by the group,
    which have the name of the study's folder.

    Args:
        trackers: as :func:`check` takes them. Those without an address or a project take it from the tools' own
            environment variables, the project else from the study's name.
        study: address of the study's folder.

    Raises:
        TrackerError: one has another form.
    """
    made: list[tune.Callback] = []
    for tracker in trackers:
        tool, address = _parts(tracker)
        # Importing either tool takes seconds, which a search without them need not wait.
        if tool == "mlflow":
            from manynet.search.trackers.mlflow_runs import MLflowRuns

            experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME") or basename(study)
            made.append(MLflowRuns(_store(address), experiment, study))
        else:
            from manynet.search.trackers.wandb_runs import WandbRuns

            project = address or os.environ.get("WANDB_PROJECT") or basename(study)
            made.append(WandbRuns(project, basename(study), study))
    return made


def _parts(tracker: str) -> tuple[str, str]:
    tool, colon, address = tracker.partition(":")
    if tool not in ("mlflow", "wandb") or bool(colon) != bool(address):
        raise TrackerError(f"a tracker must be one of {', '.join(FORMS)}, but got {tracker!r}")
    return tool, address


def _store(address: str) -> str:
    """The address of an MLflow store, the same for whoever is in another working folder."""
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
            f"since MLflow keeps none in files any more, but got {store!r}"
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
        known = wandb.login(prompt=False)
    except wandb.Error as error:
        raise TrackerError(f"tracker wandb needs a key that its server takes: {first_line(error)}") from None
    if not known:
        raise TrackerError(
            "tracker wandb needs a key, but found none: set WANDB_API_KEY, run `wandb login`, "
            "or set WANDB_MODE=offline"
        )
