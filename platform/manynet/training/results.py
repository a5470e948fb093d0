"""Results of finished training, and the check that they belong to the settings asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from manynet.config.settings import TrainSettings
from manynet.data import Data
from manynet.learning.strategy import TrainingError
from manynet.space.domains import Value
from manynet.space.search_space import Architecture, SearchSpace
from manynet.space.subnet import Subnet, extract
from manynet.storage import exists, join, read_bytes, read_json
from manynet.training.loop import RESULT, WEIGHTS, TrainingJob, load_weights


@dataclass(frozen=True)
class Trained:
    """A trained network.

    Attributes:
        weights: address of its safetensors file: moving averages; of a subnet with its own statistics.
        digest: of that file, 16 hexadecimal digits.
        curves: one row an evaluation: ``step``, ``loss``, ``learning_rate``, what the strategy tells besides, and the
            validation metrics: ``largest/accuracy`` and so on of a supernet, ``accuracy`` and so on of a subnet.
        seconds: of training, over all its starts.
        found: the architecture that training chose, where its strategy chooses one.
        made_with: of each start, its ``step`` and the settings that decide no result: ``workers``...
    """

    weights: str
    digest: str
    curves: list[dict[str, float]]
    seconds: float
    found: Architecture | None = None
    made_with: Sequence[Mapping[str, Any]] = ()

    @property
    def metrics(self) -> dict[str, float]:
        """The last row's."""
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
    """Identity of a training: all that decides its result, as JSON values."""
    architecture = None if arch is None else dict(arch)
    return {
        **{f"train.{name}": value for name, value in settings.fixed.items()},
        "space": space.digest,
        "data": data.digest,
        "architecture": architecture,
        "weights": weights,
    }


def check_identity(job: TrainingJob, found: Mapping[str, Any], place: str) -> None:
    """Raise :class:`TrainingError` when what ``place`` holds was trained otherwise than ``job`` asks."""
    for name, value in job.identity.items():
        if found.get(name) != value:
            raise TrainingError(
                f"{name} must be {found.get(name)!r} as in what {place} holds, but got {value!r}; "
                f"delete {place} to train anew"
            )


def result(job: TrainingJob) -> Trained | None:
    """What a finished job left, or None.

    Raises:
        TrainingError: when it was trained otherwise, or its weights are damaged.
    """
    found = read_json(join(job.folder, RESULT))
    if found is None:
        return None
    check_identity(job, found["identity"], job.folder)
    weights = join(job.folder, WEIGHTS)
    if digest(weights) != found["digest"]:
        raise TrainingError(
            f"weights must be as they were written, but {weights} differs; delete {join(job.folder, RESULT)} to train again"
        )
    return Trained(
        weights,
        found["digest"],
        found["curves"],
        found["seconds"],
        found.get("found"),
        found.get("made_with", ()),
    )


def required(job: TrainingJob) -> Trained:
    """What a finished job left; raise :class:`TrainingError` when there is nothing."""
    found = result(job)
    if found is None:
        raise TrainingError(
            f"training must leave {join(job.folder, RESULT)}, but it did not: is the folder shared by all nodes?"
        )
    return found


def digest(address: str) -> str:
    """Of a file, 16 hexadecimal digits."""
    if not exists(address):
        raise TrainingError(f"weights must be there, but {address} is not")
    return hashlib.sha256(read_bytes(address)).hexdigest()[:16]
