"""The devices of a study, as its evaluators reach them: the device service, and the leases of hosts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from types import TracebackType
from typing import Any, Self, cast
from uuid import uuid4

import ray
from ray.actor import ActorHandle, ActorProxy
from torch import Tensor, nn

from manynet.devices.actor import Description
from manynet.devices.cores import beside
from manynet.devices.drift import DriftRules
from manynet.devices.errors import DeviceError, DeviceLostError
from manynet.devices.journal import Status
from manynet.devices.lease import Lease
from manynet.devices.measurement import Measurement
from manynet.devices.name import DeviceName
from manynet.devices.placement import service_options, this_node
from manynet.devices.service import DeviceService, ServicePlan
from manynet.devices.station import Inputs
from manynet.devices.tools import tool_of
from manynet.errors import ManynetError, typed_line

NAMESPACE = "manynet"
PREFIX = "devices-"
DEFAULT = DriftRules()


class DevicePool:
    """Devices of these names, served by one :class:`~manynet.devices.service.DeviceService`.

    Pickles into Ray tasks and actors; the process that made it owns the service.

    Args:
        names: device names, e.g. ``["host/torch", "host/onnxruntime?threads=2"]``; may be empty.
        isolate: keep cores for measurements, as many as the most threads any name has: evaluators then run on the
            others of a host that measures, and do not wait. Otherwise they share all cores, and wait.
        journal: address of a file in which the service keeps how its devices are, or None.
        drift: when a device counts as drifted; see :meth:`refer`.

    Raises:
        DeviceError: if a name is misspelt, nobody serves it, its tool is missing or refuses its settings, or a host
            has no cores to keep.
    """

    def __init__(
        self,
        names: Sequence[str],
        *,
        isolate: bool = False,
        journal: str | None = None,
        drift: DriftRules = DEFAULT,
    ) -> None:
        parsed = list(dict.fromkeys(DeviceName.parse(name) for name in names))
        for name in parsed:
            if name.source != "measured":
                raise DeviceError(f"a device measures, but got source={name.source} in '{name}'")
            tool_of(name)
        self.names = tuple(map(str, parsed))
        self.descriptions: Mapping[str, Description] = {}
        self._cores = max((name.threads for name in parsed), default=0) if isolate else 0
        self._service: ActorProxy[DeviceService] | None = None
        self._measuring: frozenset[str] = frozenset()
        if parsed:
            self._service = _serve(ServicePlan(parsed, this_node(), self._cores, journal, drift))
            try:
                self.descriptions = _answer(self._service.start.remote())
            except DeviceError:
                self.close()
                raise
            self._measuring = frozenset(status.node for status in self.statuses())

    def measure(
        self, subnet: nn.Module, example: tuple[Tensor, ...], names: Iterable[str] | None = None
    ) -> dict[str, Measurement]:
        """Measure ``subnet`` on one device of each of the names; blocks. Never call it while holding ``lease()``.

        Where a device dies, another of its kind takes its place, or itself once it is up again.

        Args:
            subnet: called ``subnet(*example)``.
            example: inputs ``(1, ...)``.
            names: those of the pool to measure; all by default.

        Returns:
            One measurement per canonical name.

        Raises:
            MeasurementError: if a tool cannot convert or run this network, or it killed two devices; other networks
                may still be measured.
            DeviceLostError: if no device of a name is left.
        """
        wanted = self.names if names is None else tuple(names)
        if self._service is None or not wanted:
            return {}
        inputs: Inputs = [ray.put(subnet), ray.put(example)]
        pending = {name: self._service.measure.remote(name, inputs) for name in wanted}
        return {name: _answer(reference) for name, reference in pending.items()}

    def refer(self, subnet: nn.Module, example: tuple[Tensor, ...]) -> None:
        """Hold devices to the time of ``subnet`` from now on: they measure it again and again.

        One whose time has drifted is set aside until it is near the first again; arguments are those of ``measure``.
        """
        if self._service is not None:
            inputs: Inputs = [ray.put(subnet), ray.put(example)]
            _answer(self._service.refer.remote(inputs))

    def statuses(self) -> list[Status]:
        """How every device of every name is."""
        return [] if self._service is None else _answer(self._service.statuses.remote())

    def lease(self) -> AbstractContextManager[None]:
        """What an evaluator enters for each batch: it keeps the batch out of the way of measurements on its host."""
        if self._service is None:
            return nullcontext()
        if not self._cores:
            return Lease().shared()
        return beside(self._cores) if self._node in self._measuring else nullcontext()

    @cached_property
    def _node(self) -> str:
        return this_node()

    def close(self) -> None:
        """End the devices."""
        if self._service is not None:
            _answer(self._service.close.remote())
            ray.kill(cast(ActorHandle[DeviceService], self._service))
            self._service = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def running() -> list[Status]:
    """How the devices of all studies are that run in the connected cluster."""
    found: list[Status] = []
    for entry in ray.util.list_named_actors(all_namespaces=True):
        if entry["namespace"] == NAMESPACE and entry["name"].startswith(PREFIX):
            service = ray.get_actor(entry["name"], NAMESPACE)
            found += _answer(service.statuses.remote())
    return found


def _serve(plan: ServicePlan) -> ActorProxy[DeviceService]:
    named = {"name": f"{PREFIX}{uuid4().hex[:8]}", "namespace": NAMESPACE}
    actor_class = ray.remote(DeviceService)
    return actor_class.options(num_cpus=0, **named, **service_options(plan.home)).remote(plan)


def _answer(reference: Any) -> Any:
    """What the service answers, or its own error."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayActorError as error:
        raise DeviceLostError(f"the device service must answer, but got {typed_line(error)}") from None
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, ManynetError):
            raise error.cause from None
        raise
