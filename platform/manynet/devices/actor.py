"""The actor that owns one device name: it measures one network at a time."""

from __future__ import annotations

import faulthandler
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import ray
from torch import Tensor, nn

from manynet.devices.errors import DeviceError, MeasurementError, first_line
from manynet.devices.lease import Lease
from manynet.devices.measurement import Measurement
from manynet.devices.name import DeviceName
from manynet.devices.timing import Timing
from manynet.devices.tools import tool_of


class Description(NamedTuple):
    """What serves a device name: one line about the hardware, the tool's version, the actor's process."""

    fingerprint: str
    tool_version: str
    process: int


class DeviceActor:
    """Measures networks for one device name, on the machine the actor is placed on.

    One actor per full name, so that its process keeps the name's thread count. Ray runs its methods one by
    one; the host's lease keeps other actors and evaluators out of a timing.
    """

    def __init__(self, name: DeviceName, lease: Lease) -> None:
        self.name = name
        self.lease = lease
        self.tool = tool_of(name)

    def __repr__(self) -> str:
        return f"Device({self.name})"

    @ray.method
    def describe(self) -> Description:
        """Say what serves this name.

        Raises:
            DeviceError: if the tool is missing on this machine.
        """
        if reason := self.tool.missing(self.name):
            raise DeviceError(f"{self.name.base} cannot be used: {reason}")
        return Description(self.tool.hardware(), self.tool.version(), os.getpid())

    @ray.method
    def measure(self, subnet: nn.Module, example: tuple[Tensor, ...]) -> Measurement:
        """Convert ``subnet`` under the shared lease, then time it under the exclusive one.

        The conversion works the processor for seconds: without the shared lease it would disturb another
        device's measurement, and under the exclusive one it would stop all evaluators.

        Args:
            subnet: called ``subnet(*example)``.
            example: inputs ``(1, ...)``.

        Raises:
            MeasurementError: if the tool cannot convert or run the network, or its timing is no time.
        """
        try:
            with self.lease.shared():
                timed = self.tool.prepare(subnet, example, self.name)
            with self.tool.lease(self.lease).exclusive(), _end_process_after(self.tool.limit_seconds):
                timing = timed()
            _check(timing)
        except Exception as error:  # noqa: BLE001 - a tool may fail on a network in any way
            reason = str(error) if isinstance(error, MeasurementError) else first_line(error)
            raise MeasurementError(f"{self.name} could not measure the network: {reason}") from None
        return Measurement(
            device=str(self.name),
            fingerprint=self.tool.hardware(),
            tool=self.name.tool,
            tool_version=self.tool.version(),
            batch=self.name.batch,
            threads=self.name.threads,
            precision=self.name.precision,
            milliseconds=timing.milliseconds,
            spread=timing.spread,
            count=timing.count,
            steady=timing.steady,
        )


def _check(timing: Timing) -> None:
    if not 0 < timing.milliseconds < math.inf:
        raise MeasurementError(f"milliseconds of a run must be more than 0, but got {timing.milliseconds:g}")


@contextmanager
def _end_process_after(seconds: float) -> Iterator[None]:
    # A run that hangs inside a runtime can only be stopped from outside Python; Ray then restarts the actor.
    faulthandler.dump_traceback_later(seconds, exit=True, file=sys.__stderr__ or sys.stderr)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
