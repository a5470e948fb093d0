"""How far a study is, from the small files in its folder: no ledger, no data, no space is opened."""

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
"""Without news: training tells every second, a search every two, but checkpoints and exports take a while."""

Step = Literal["begun", "train", "search", "finalists", "done"]


@dataclass(frozen=True)
class Seen:
    """What is known of a study from outside.

    Attributes:
        name: of the study's folder.
        address: of the study's folder.
        space: its name, or where it is found.
        step: the one that the study is at; ``begun`` before anything is told of the first.
        steps: those that it is to go through.
        updated: when anything was last told, seconds since 1970.
        training: of the supernet: as training publishes it.
        search: what the search tells.
        subnets: of finalists and anchors: as ``training``.
        devices: how they are.
        winners: with their metrics on the test split, once all are there.
        gone: whether what told of the search is no more, for one that was seen through its actor.
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
        """Whether nothing more is to come."""
        return self.step == "done" or self.gone

    def silence(self, now: float) -> float:
        """Seconds without news, where there should be some; else 0."""
        quiet = max(0.0, now - self.updated)
        stopped = self.step == "search" and self.search is not None and self.search.state == "stopped"
        return quiet if quiet > STALE_SECONDS and not self.over and not stopped else 0.0


def read_study(folder: str) -> Seen:
    """How far the study in a folder is.

    Raises:
        StorageError: a file cannot be read.
        StatusError, ExperimentError: a file holds something else.
    """
    address = join(folder, EXPERIMENT)
    experiment = parse_experiment(read_bytes(address).decode(), address)
    steps = list(experiment.steps)
    written = _written(folder)
    search, found = status.read(folder), winners.read(folder)
    told = search.updated if search is not None else 0.0
    return Seen(
        name=basename(folder),
        address=folder,
        space=experiment.space if search is None else search.space,
        step=_step(steps, written, search),
        steps=steps,
        updated=max(told, *written.values()),
        training=training_status.read(join(folder, TRAINING)),
        search=search,
        subnets=training_status.read(join(folder, SUBNETS)),
        devices=Journal.read(join(folder, DEVICES)).devices,
        winners=found or (),
    )


def _step(steps: Sequence[str], written: Mapping[str, float], search: SearchStatus | None) -> Step:
    """The step that the newest files are of."""
    if winners.FILE in written:
        return "done"
    if SUBNETS in written or (search is not None and search.state == "ended"):
        return "finalists" if "finalists" in steps else "done"
    if TRAINED in written:
        return "search" if "search" in steps else "done"
    return "train" if TRAINING in written else "begun"


def _written(folder: str) -> dict[str, float]:
    """When each file that is there was last written, seconds since 1970."""
    names = (EXPERIMENT, TRAINING, TRAINED, SUBNETS, DEVICES, winners.FILE)
    filesystem, path = locate(folder)
    try:
        infos = filesystem.get_file_info([f"{path}/{one}" for one in names])
    except OSError as error:
        raise StorageError(f"{folder} must be a folder that can be read: {error}") from None
    times = zip(names, infos, strict=True)
    return {one: info.mtime_ns / 1e9 for one, info in times if info.type != FileType.NotFound}
