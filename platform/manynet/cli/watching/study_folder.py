"""Reads a study's status from the small files in its folder, without its ledger, data or space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pyarrow.fs import FileType

from manynet.config.experiment import parse_experiment
from manynet.devices.journal import Journal
from manynet.devices.journal import Status as DeviceStatus
from manynet.storage import StorageError, basename, join, locate, read_bytes
from manynet.telemetry import finalists_file as winners
from manynet.telemetry import search_status as status
from manynet.telemetry import training_status
from manynet.telemetry.search_status import Member, SearchStatus
from manynet.telemetry.training_status import TrainingStatus

EXPERIMENT, DEVICES = "experiment.yaml", "devices.json"
TRAINED = "supernet/result.json"
TRAINING, SUBNETS = f"supernet/{training_status.FILE}", f"subnets/{training_status.FILE}"
STALE_SECONDS = 30.0
"""Age from which a status is stale: training writes every second, a search every two; checkpoints and exports pause both."""

Step = Literal["begun", "train", "search", "finalists", "done"]


@dataclass(frozen=True)
class StudyStatus:
    """Status of a study, as read from outside its run.

    Attributes:
        name: of the study's folder.
        address: of the study's folder.
        space: its name, or its reference.
        step: current step; ``begun`` before the first one publishes a status.
        steps: all steps of the study.
        updated: time of the last status, seconds since 1970.
        training: status of the supernet's training.
        search: status of the search.
        subnets: status of the training of finalists and anchors.
        devices: their status.
        winners: finalists with their metrics on the test split, once all are trained.
        gone: whether the search's actor is gone, for a search read through its actor.
    """

    name: str
    address: str
    space: str
    step: Step
    steps: Sequence[str]
    updated: float
    training: TrainingStatus | None = None
    search: SearchStatus | None = None
    subnets: TrainingStatus | None = None
    devices: Sequence[DeviceStatus] = field(default_factory=tuple)
    winners: Sequence[Member] = field(default_factory=tuple)
    gone: bool = False

    @property
    def over(self) -> bool:
        """Whether the study is finished or gone."""
        return self.step == "done" or self.gone

    def silence(self, now: float) -> float:
        """Seconds since the last status if it is stale; else 0."""
        quiet = max(0.0, now - self.updated)
        stopped = self.step == "search" and self.search is not None and self.search.state == "stopped"
        return quiet if quiet > STALE_SECONDS and not self.over and not stopped else 0.0


def read_study(folder: str) -> StudyStatus:
    """Status of the study in a folder.

    Raises:
        StorageError: a file cannot be read.
        StatusError, ExperimentError: a file has another format.
    """
    address = join(folder, EXPERIMENT)
    experiment = parse_experiment(read_bytes(address).decode(), address)
    steps = list(experiment.steps)
    written = _written(folder)
    search, finalists = status.read(folder), winners.read(folder)
    updated = search.updated if search is not None else 0.0
    return StudyStatus(
        name=basename(folder),
        address=folder,
        space=experiment.space if search is None else search.space,
        step=_step(steps, written, search),
        steps=steps,
        updated=max(updated, *written.values()),
        training=training_status.read(join(folder, TRAINING)),
        search=search,
        subnets=training_status.read(join(folder, SUBNETS)),
        devices=Journal.read(join(folder, DEVICES)).devices,
        winners=finalists or (),
    )


def _step(steps: Sequence[str], written: Mapping[str, float], search: SearchStatus | None) -> Step:
    """The current step, by the files that exist."""
    if winners.FILE in written:
        return "done"
    if SUBNETS in written or (search is not None and search.state == "ended"):
        return "finalists" if "finalists" in steps else "done"
    if TRAINED in written:
        return "search" if "search" in steps else "done"
    return "train" if TRAINING in written else "begun"


def _written(folder: str) -> dict[str, float]:
    """Modification time of each existing file, seconds since 1970."""
    names = (EXPERIMENT, TRAINING, TRAINED, SUBNETS, DEVICES, winners.FILE)
    filesystem, path = locate(folder)
    try:
        infos = filesystem.get_file_info([f"{path}/{name}" for name in names])
    except OSError as error:
        raise StorageError(f"{folder} must be a folder that can be read: {error}") from None
    times = zip(names, infos, strict=True)
    return {name: info.mtime_ns / 1e9 for name, info in times if info.type != FileType.NotFound}
