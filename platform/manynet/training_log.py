"""What a training run leaves for people: its progress, its curves and TensorBoard events."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from manynet.storage import write_bytes

CURVES, PROGRESS, EVENTS = "curves.jsonl", "progress.json", "tensorboard"
_SECONDS_BETWEEN = 1.0


class TrainingLog:
    """Written by the first worker only; the others keep silent.

    Args:
        folder: address of the job's folder.
        progress: address of the run's progress file, which the driver's bar reads.
        about: what the progress file says besides: which job, of how many, its steps, and which
            metric's newest values belong there.
        silent: whether this worker writes nothing.
    """

    def __init__(self, folder: str, progress: str, about: Mapping[str, Any], silent: bool) -> None:
        self._folder, self._progress, self._about, self._silent = folder, progress, about, silent
        self._last_row: Mapping[str, float] = {}
        self._written = 0.0
        self._events: Any = None

    def start(self, step: int) -> None:
        """Open the event file; what an interrupted run wrote beyond ``step`` is hidden."""
        if self._silent:
            return
        # Imported here: it takes seconds, and only one worker needs it.
        from torch.utils.tensorboard import SummaryWriter

        self._events = SummaryWriter(f"{self._folder}/{EVENTS}", purge_step=step)
        self._write_progress(step, None)

    def step(self, step: int, logged: Mapping[str, torch.Tensor]) -> None:
        """Tell how far training is, about once a second: reading a loss waits for the device."""
        if self._silent or time.monotonic() - self._written < _SECONDS_BETWEEN:
            return
        values = {name: float(value) for name, value in logged.items()}
        self._add(step, values)
        self._write_progress(step, values["loss"])

    def rows(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Rewrite the curves: so a resumed run repeats no row, and object stores, which cannot append, serve."""
        if self._silent:
            return
        self._last_row = rows[-1]
        step = int(rows[-1]["step"])
        self._add(step, {name: value for name, value in rows[-1].items() if name not in ("step", "loss")})
        text = "".join(json.dumps(row) + "\n" for row in rows)
        write_bytes(f"{self._folder}/{CURVES}", text.encode())
        self._write_progress(step, rows[-1]["loss"])

    def close(self) -> None:
        """Close the event file."""
        if self._events is not None:
            self._events.close()

    def _add(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._events.add_scalar(name, value, step)

    def _write_progress(self, step: int, loss: float | None) -> None:
        self._written = time.monotonic()
        metric = self._about["metric"]
        shown = {name: value for name, value in self._last_row.items() if name.split("/")[-1] == metric}
        content = {**self._about, "step": step, "loss": loss, **shown}
        write_bytes(self._progress, json.dumps(content).encode())
