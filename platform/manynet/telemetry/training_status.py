"""Training status: a small JSON file written by the first worker, and its text form."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TypedDict, cast

from manynet.storage import read_json, write_bytes

FILE = "progress.json"
"""Name of the file in the folder of a training run."""


class TrainedNetwork(TypedDict):
    """The network in training, and its position in the run.

    Attributes:
        job: name of the network.
        number: its position in the run, from 0.
        jobs: number of networks of the run.
        steps: optimizer steps of this network.
        metric: of the task.
    """

    job: str
    number: int
    jobs: int
    steps: int
    metric: str


class TrainingStatus(TrainedNetwork):
    """Training at one moment.

    Attributes:
        step: optimizer steps done.
        logged: loss and values logged by the strategy.
        scores: the newest ``<subnet>/<metric>`` values.
        found: current architecture of a differentiable search; empty otherwise.
    """

    step: int
    logged: Mapping[str, float]
    scores: Mapping[str, float]
    found: str


def read(address: str) -> TrainingStatus | None:
    """The status at an address; None if nothing is published yet.

    Raises:
        StorageError: it cannot be read.
    """
    return cast(TrainingStatus | None, read_json(address))


def write(address: str, status: TrainingStatus) -> None:
    """Write a status atomically.

    Raises:
        StorageError: it cannot be written.
    """
    write_bytes(address, json.dumps(status).encode())


def line(status: TrainingStatus) -> str:
    """Network, logged values and scores in one line."""
    parts = [f"{status['job']} ({status['number'] + 1}/{status['jobs']})"] if status["jobs"] > 1 else []
    parts += _values(status["logged"])
    metric = status["metric"]
    form = ".1%" if metric == "accuracy" else ".4f"
    parts += [f"{name.removesuffix(f'/{metric}')} {value:{form}}" for name, value in status["scores"].items()]
    return ", ".join(parts)


def _values(logged: Mapping[str, float]) -> list[str]:
    """A text for each value; values of one prefix, such as ``open/`` of each block, share a range."""
    groups: dict[str, dict[str, float]] = {}
    for name, value in logged.items():
        groups.setdefault(name.partition("/")[0], {})[name] = value
    parts = []
    for prefix, values in groups.items():
        if len(values) > 1:
            parts.append(f"{prefix} {_value(min(values.values()))} to {_value(max(values.values()))}")
        else:
            parts += [f"{name} {_value(value)}" for name, value in values.items()]
    return parts


def _value(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    # A small value must not be shown as 0.
    return f"{value:.3f}" if value == 0 or abs(value) >= 0.0005 else f"{value:.0e}"
