"""Training log: progress file, learning curves, TensorBoard events and Ray metrics."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence

import torch
from ray.util.metrics import Gauge

from manynet.space.search_space import Architecture, described
from manynet.storage import is_local, join, write_bytes
from manynet.telemetry import training_status
from manynet.telemetry.metrics import LOSS, RATE_OF_LEARNING, STEP, gauge
from manynet.telemetry.tensorboard import Events
from manynet.telemetry.training_status import TrainedNetwork

CURVES, EVENTS = "curves.jsonl", "tensorboard"
_SECONDS_BETWEEN = 1.0
_SECONDS_BETWEEN_UPLOADS = 5.0


class TrainingLog:
    """Log of one training job, written by the first worker only.

    Args:
        folder: address of the job's folder.
        progress: address of the run's progress file, which the driver's bar reads.
        about: describes the network in training; part of the progress file.
        silent: whether to write nothing, as on all other workers.
    """

    def __init__(self, folder: str, progress: str, about: TrainedNetwork, silent: bool) -> None:
        self._folder, self._progress, self._about, self._silent = folder, progress, about, silent
        self._scores: Mapping[str, float] = {}
        self._architecture = ""
        self._written = 0.0
        self._seconds = _SECONDS_BETWEEN if is_local(progress) else _SECONDS_BETWEEN_UPLOADS
        self._events: Events | None = None
        self._gauges: list[Gauge] = []

    def start(self, step: int) -> None:
        """Open the event file; events of an interrupted run after ``step`` are hidden."""
        if self._silent:
            return
        self._events = Events(join(self._folder, EVENTS), purge_step=step)
        self._gauges = [gauge(definition) for definition in (STEP, RATE_OF_LEARNING, LOSS)]
        self._write_progress(step, {})

    def step(self, step: int, rate: float, logged: Mapping[str, torch.Tensor]) -> None:
        """Log a step, at most once in a second or a few: reading ``logged`` waits for the device."""
        if self._silent or time.monotonic() - self._written < self._seconds:
            return
        values = {name: float(value) for name, value in logged.items()}
        self._add(step, {"learning_rate": rate, **values})
        self._export(step, rate, values["loss"])
        self._write_progress(step, values)

    def found(self, step: int, arch: Architecture) -> None:
        """Log the architecture that a search by training would choose now."""
        if self._events is None:
            return
        self._architecture = described(arch)
        self._events.text("found", self._architecture, step)

    def rows(self, rows: Sequence[Mapping[str, float]], losses: Mapping[str, float]) -> None:
        """Rewrite the curves as a whole: a resumed run repeats no row, and object stores cannot append.

        Args:
            rows: all evaluations, the newest last.
            losses: of the newest row's step, which :meth:`step` logs only where seconds have passed.
        """
        if self._silent:
            return
        metric, step = self._about["metric"], int(rows[-1]["step"])
        self._scores = {name: value for name, value in rows[-1].items() if name.split("/")[-1] == metric}
        values = {name: value for name, value in rows[-1].items() if name not in ("step", "loss")}
        self._add(step, {**losses, **values})
        self._export(step, rows[-1]["learning_rate"], rows[-1]["loss"])
        text = "".join(json.dumps(row) + "\n" for row in rows)
        write_bytes(join(self._folder, CURVES), text.encode())
        self._write_progress(step, {"loss": rows[-1]["loss"]})

    def close(self) -> None:
        """Close the event file."""
        if self._events is not None:
            self._events.close()

    def _add(self, step: int, values: Mapping[str, float]) -> None:
        assert self._events is not None
        for name, value in values.items():
            self._events.scalar(name, value, step)
        self._events.flush()

    def _export(self, step: int, rate: float, loss: float) -> None:
        for metric, value in zip(self._gauges, (step, rate, loss), strict=True):
            metric.set(value, tags={"network": self._about["job"]})

    def _write_progress(self, step: int, logged: Mapping[str, float]) -> None:
        self._written = time.monotonic()
        status: training_status.TrainingStatus = {
            **self._about,
            "step": step,
            "logged": logged,
            "scores": self._scores,
            "found": self._architecture,
        }
        training_status.write(self._progress, status)
