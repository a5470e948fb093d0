"""The actor that owns one device name: it measures one network at a time."""

from __future__ import annotations

import faulthandler
import math
import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import ray

from manynet.devices.cores import kept, run_on
from manynet.devices.errors import MeasurementError
from manynet.devices.lease import Lease
from manynet.devices.measurement import Measurement
from manynet.devices.name import DeviceName
from manynet.devices.timing import Timing
from manynet.devices.tools import described, tool_of
from manynet.devices.tools.base import Tool
from manynet.errors import typed_line

if TYPE_CHECKING:
    # The device service, which holds no network, needs no PyTorch.
    from torch import Tensor, nn

CONVERSION_SECONDS = 900.0


class Description(NamedTuple):
    """What serves a device name: one line about the hardware, the tool's version, and which actor it is."""

    fingerprint: str
    tool_version: str
    actor: str


class DeviceActor:
    """Measures networks for one device name, on the machine the actor is placed on.

    One actor per full name, so that its process keeps the name's thread count. Ray runs its methods one by
    one; the host's lease keeps other actors and evaluators out of a timing.

    Args:
        name: of the device.
        lease: of the host.
        cores: how many of the host's cores are kept for measurements; the process stays on these. 0 is none.
    """

    def __init__(self, name: DeviceName, lease: Lease, cores: int = 0) -> None:
        self.name = name
        self.lease = lease
        self.cores = cores
        self._reference: Callable[[], Timing] | None = None

    def __repr__(self) -> str:
        return f"Device({self.name})"

    @ray.method
    def describe(self) -> Description:
        """Say what serves this name, which is then ready to measure.

        Raises:
            DeviceError: if the tool is missing on this machine, or there are no cores to keep.
        """
        if self.cores:
            run_on(kept(self.cores))
        return Description(*described(self.tool, self.name), self.actor)

    @cached_property
    def tool(self) -> Tool:
        """The name's tool; made late, so that a module that is missing here is one clear line."""
        return tool_of(self.name)

    @property
    def actor(self) -> str:
        """Host, Ray node and process that measure."""
        node = ray.get_runtime_context().get_node_id()[:8] if ray.is_initialized() else "local"
        return f"{socket.gethostname()}/{node}/{os.getpid()}"

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
        timing = self._timing(lambda: self._prepared(subnet, example))
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
            actor=self.actor,
        )

    @ray.method
    def refer(self, subnet: nn.Module, example: tuple[Tensor, ...]) -> None:
        """Keep ``subnet`` at hand as the reference that :meth:`check` measures; arguments are those of `measure`.

        Raises:
            MeasurementError: if the tool cannot convert it.
        """
        with self._named():
            self._reference = self._prepared(subnet, example)

    @ray.method
    def check(self) -> float:
        """Milliseconds that the reference takes now.

        Raises:
            MeasurementError: if its timing is no time.
        """
        reference = self._reference
        assert reference is not None
        return self._timing(lambda: reference).milliseconds

    def _prepared(self, subnet: nn.Module, example: tuple[Tensor, ...]) -> Callable[[], Timing]:
        with self.lease.shared(), _end_process_after(CONVERSION_SECONDS):
            return self.tool.prepare(subnet, example, self.name)

    def _timing(self, prepare: Callable[[], Callable[[], Timing]]) -> Timing:
        with self._named():
            timed = prepare()
            with self.tool.lease(self.lease).exclusive(), _end_process_after(self.tool.limit_seconds):
                timing = timed()
            _check(timing)
            return timing

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Whatever goes wrong with a network names this device, in one line."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - a tool may fail on a network in any way
            reason = str(error) if isinstance(error, MeasurementError) else typed_line(error)
            raise MeasurementError(f"{self.name} could not measure the network: {reason}") from None


def _check(timing: Timing) -> None:
    if not 0 < timing.milliseconds < math.inf:
        raise MeasurementError(f"milliseconds of a run must be more than 0, but got {timing.milliseconds:g}")


@contextmanager
def _end_process_after(seconds: float) -> Iterator[None]:
    # A run that hangs inside a runtime can only be stopped from outside Python; a new actor then takes its place.
    faulthandler.dump_traceback_later(seconds, exit=True, file=sys.__stderr__ or sys.stderr)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
