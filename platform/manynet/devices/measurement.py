"""One measured latency, with everything needed to judge and repeat it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
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
        milliseconds: median time of one run (of the whole batch), ms.
        spread: interquartile range over the median.
        count: timed samples behind the median.
        steady: whether the spread became small enough; if not, the median is uncertain by ``spread``.
        source: ``measured``, ``predicted`` or ``table``.
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

    def to_dict(self) -> dict[str, Any]:
        """A flat dict of JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Measurement:
        """Undo ``to_dict``.

        Raises:
            DeviceError: if a field is missing or unknown.
        """
        known = {field.name for field in fields(cls)}
        if wrong := known ^ set(values):
            raise DeviceError(
                f"a measurement must have the fields {', '.join(sorted(known))}, but got "
                f"{', '.join(sorted(wrong))} missing or unknown"
            )
        return cls(**values)
