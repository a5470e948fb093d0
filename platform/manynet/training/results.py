"""Results of finished training, and the check that they match the settings."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from manynet.config.settings import TrainSettings
from manynet.data import Data
from manynet.errors import InvalidValue
from manynet.learning.strategy import TrainingError
from manynet.space.domains import Value
from manynet.space.search_space import Architecture, SearchSpace
from manynet.space.subnet import Subnet, extract
from manynet.storage import exists, join, read_bytes
from manynet.training.loop import RESULT, WEIGHTS, TrainingJob, load_weights


@dataclass(frozen=True)
class Trained:
    """A trained network.

    Attributes:
        weights: address of the safetensors file with the moving averages; a subnet's has recalibrated batch norms.
        digest: of the weights file, 16 hexadecimal digits.
        curves: one row an evaluation: ``step``, ``loss``, ``learning_rate``, the strategy's own values, and the
            validation metrics: ``largest/accuracy`` and so on of a supernet, ``accuracy`` and so on of a subnet.
        seconds: training time over all starts.
        found: the architecture that training chose, if its strategy chooses one.
        made_with: of each start, its ``step`` and the settings that do not affect the result: ``workers``...
    """

    weights: str
    digest: str
    curves: list[dict[str, float]]
    seconds: float
    found: Architecture | None = None
    made_with: Sequence[Mapping[str, Any]] = ()

    @property
    def metrics(self) -> dict[str, float]:
        """Metrics of the last row."""
        return self.curves[-1]


def load_subnet(space: SearchSpace, arch: Mapping[str, Value], trained: Trained) -> Subnet:
    """The trained subnet, on the CPU and ready to evaluate."""
    subnet = extract(space.build(), arch, space.example(arch))
    subnet.network.load_state_dict(load_weights(trained.weights))
    return subnet.eval()


def identity(
    space: SearchSpace,
    data: Data,
    settings: TrainSettings,
    arch: Architecture | None = None,
    weights: str | None = None,
) -> dict[str, Any]:
    """Identity of a training: everything its result depends on, as JSON values."""
    architecture = None if arch is None else dict(arch)
    return {
        **{f"train.{name}": value for name, value in settings.fixed.items()},
        "space": space.digest,
        "data": data.digest,
        "architecture": architecture,
        "weights": weights,
    }


def check_identity(job: TrainingJob, saved: Mapping[str, Any], place: str) -> None:
    """Raise :class:`TrainingError` when the result in ``place`` was trained with other settings than ``job``."""
    for name, value in job.identity.items():
        if saved.get(name) != value:
            raise TrainingError(
                f"{name} must be {saved.get(name)!r} as in what {place} holds, but got {value!r}; "
                f"delete {place} to train anew"
            )


class _Result(BaseModel):
    """The file that marks a training complete."""

    model_config = ConfigDict(strict=True)

    identity: dict[str, Any]
    digest: str
    curves: list[dict[str, float]] = Field(min_length=1)
    seconds: float
    found: dict[str, bool | int | float | str] | None = None
    made_with: list[dict[str, Any]] = []


def finished(folder: str) -> Trained | None:
    """Result of a training that ended in a folder, or None. Its weights are not read.

    Raises:
        TrainingError: when the folder holds something else.
    """
    saved = _saved(folder)
    return None if saved is None else _trained(folder, saved)


def result(job: TrainingJob) -> Trained | None:
    """Result of a finished job, or None.

    Raises:
        TrainingError: when it was trained with other settings, or its weights are damaged.
    """
    saved = _saved(job.folder)
    if saved is None:
        return None
    check_identity(job, saved.identity, job.folder)
    trained = _trained(job.folder, saved)
    if digest(trained.weights) != trained.digest:
        raise TrainingError(
            f"weights must be as they were written, but {trained.weights} differs; "
            f"delete {join(job.folder, RESULT)} to train again"
        )
    return trained


def _saved(folder: str) -> _Result | None:
    address = join(folder, RESULT)
    if not exists(address):
        return None
    try:
        return _Result.model_validate_json(read_bytes(address))
    except ValidationError as error:
        raise TrainingError(
            f"{address} must hold a training's result, but {InvalidValue.first(error).line()}; "
            f"delete it to train again"
        ) from None


def _trained(folder: str, saved: _Result) -> Trained:
    weights = join(folder, WEIGHTS)
    return Trained(weights, saved.digest, saved.curves, saved.seconds, saved.found, saved.made_with)


def required(job: TrainingJob) -> Trained:
    """Result of a finished job; raise :class:`TrainingError` when there is none."""
    trained = result(job)
    if trained is None:
        raise TrainingError(
            f"training must leave {join(job.folder, RESULT)}, but it did not: is the folder shared by all nodes?"
        )
    return trained


def digest(address: str) -> str:
    """Digest of a file, 16 hexadecimal digits."""
    if not exists(address):
        raise TrainingError(f"weights must be there, but {address} is not")
    return hashlib.sha256(read_bytes(address)).hexdigest()[:16]
