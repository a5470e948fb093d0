"""One measured latency, with everything needed to judge and repeat it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any

from manynet.devices.errors import DeviceError


@dataclass(frozen=True)
class Measurement:
    """The latency of one network on one device; JSON-able by ``to_dict``.

    Attributes:
        device: canonical device name, e.g. ``host/torch?threads=2``.
        fingerprint: the hardware and software it ran on, one line.
        tool: deployment tool.
        tool_version: the tool's version.
        batch: examples in one run.
        threads: processor threads.
        precision: ``float32`` or ``bf16``.
        milliseconds: median time of the calmest runs (of the whole batch), ms.
        spread: their interquartile range over the median.
        count: timed samples behind the median.
        steady: whether the spread became small enough; if not, the median is uncertain by ``spread``.
        source: ``measured``, ``predicted`` or ``table``.
        actor: what measured it: host, Ray node and process.
        drift: how far the reference subnet was from its first time when the actor last measured it, as a share.
        error: of a prediction: cross-validated mean absolute error of its predictor, as a share.
        tau: of a prediction: cross-validated Kendall's tau of its predictor.
    """

    device: str
    fingerprint: str
    tool: str
    tool_version: str
    batch: int
    threads: int
    precision: str
    milliseconds: float
    spread: float
    count: int
    steady: bool
    source: str = "measured"
    actor: str = ""
    drift: float = 0.0
    error: float | None = None
    tau: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """A flat dict of JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Measurement:
        """Undo ``to_dict``.

        Raises:
            DeviceError: if a field is missing or unknown.
        """
        names = {field.name for field in fields(cls)}
        needed = {field.name for field in fields(cls) if field.default is MISSING}
        if wrong := (set(values) - names) | (needed - set(values)):
            raise DeviceError(
                f"a measurement must have the fields {', '.join(sorted(names))}, but got "
                f"{', '.join(sorted(wrong))} missing or unknown"
            )
        return cls(**values)
