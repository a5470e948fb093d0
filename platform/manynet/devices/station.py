"""One actor of a device on one node: started, started again when it dies, and watched for drift."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable
from dataclasses import replace
from typing import Any, Literal, TypeVar, cast

import ray
from ray.actor import ActorHandle, ActorProxy

from manynet.devices.actor import Description, DeviceActor
from manynet.devices.drift import Drift, DriftRules
from manynet.devices.errors import DeviceError, MeasurementError
from manynet.devices.journal import Status
from manynet.devices.lease import Lease
from manynet.devices.measurement import Measurement
from manynet.devices.name import DeviceName
from manynet.devices.placement import Place, is_alive
from manynet.errors import ManynetError, typed_line

START_SECONDS = 180.0
TRIES = 2
"""Measurements of the reference before a time that is far off counts."""
T = TypeVar("T")
Inputs = list["ray.ObjectRef[Any]"]
"""References to a network and to its example inputs: not the things, which would be copied to whoever is asked."""


class ActorDiedError(Exception):
    """The actor's process died, or its node did."""


class Station:
    """The actor of ``name`` at ``place``; see :class:`Status` for what it counts.

    Args:
        name: of the device.
        place: where it runs.
        lease: of its host.
        cores: that are kept for measurements there; 0 is none.
        rules: of drift.
    """

    def __init__(self, name: DeviceName, place: Place, lease: Lease, cores: int, rules: DriftRules) -> None:
        self.name = name
        self.place = place
        self.drift = Drift(rules)
        self.state: Literal["starting", "in service", "set aside", "lost"] = "starting"
        self._why = ""
        self._cores = cores
        self._lease = lease
        self._refers_to: Inputs | None = None
        self._counts = {"measured": 0, "unsteady": 0, "refused": 0, "deaths": 0}
        self._described = Description("", "", "")
        self._actor: ActorProxy[DeviceActor] | None = None

    async def start(self) -> Description:
        """Start the actor, or start it again, and wait until it is up.

        Raises:
            DeviceError: if its tool is missing, or it does not start.
        """
        self.close()
        self._refers_to = None
        actor_class = ray.remote(DeviceActor)
        options = {"num_cpus": 0, "max_restarts": 0, **self.place.options}
        self._actor = actor_class.options(**options).remote(self.name, self._lease, self._cores)
        try:
            answer = _answer(self.name, self._actor.describe.remote())
            self._described = await asyncio.wait_for(answer, START_SECONDS)
        except TimeoutError:
            raise DeviceError(
                f"device {self.name} must start within {START_SECONDS:g} s, but got no answer"
            ) from None
        except ActorDiedError as error:
            reason = f"its process died: {error}" if await self._has_node() else "its node is gone"
            raise DeviceError(f"device {self.name} must start, but {reason}") from None
        self.state = "in service"
        return self._described

    async def measure(self, inputs: Inputs) -> Measurement:
        """Measure a network.

        Raises:
            ActorDiedError: if the process died of it, or with its node.
            MeasurementError: if the network cannot be measured.
        """
        assert self._actor is not None
        try:
            found = await _answer(self.name, self._actor.measure.remote(*inputs))
        except MeasurementError:
            self._counts["refused"] += 1
            raise
        self._counts["measured"] += 1
        self._counts["unsteady"] += not found.steady
        return replace(found, drift=round(self.drift.now, 4))

    async def check(self, reference: Inputs) -> None:
        """Measure the reference, and judge the drift.

        A time that is far off is taken once more: something may have come in between. A measurement that fails is
        tried again when the reference is next due; a device whose tool cannot convert it is left unwatched.

        Raises:
            ActorDiedError: as :meth:`measure`.
        """
        assert self._actor is not None
        if self._refers_to is not reference:
            try:
                await _answer(self.name, self._actor.refer.remote(*reference))
            except MeasurementError as error:
                self._unwatched(math.inf, error)
                return
            self._refers_to = reference
        try:
            for _ in range(TRIES):
                milliseconds = await _answer(self.name, self._actor.check.remote())
                self.drift.note(milliseconds, time.monotonic())
                self._why = "" if self.drift.fit else str(self.drift)
                if self.drift.fit:
                    break
        except MeasurementError as error:
            self._unwatched(time.monotonic(), error)

    def _unwatched(self, checked: float, error: MeasurementError) -> None:
        self.drift.checked = checked
        self._why = f"not watched for drift: {error}"

    def judge(self, alone: bool) -> bool:
        """Whether it may measure now; ``alone`` is whether no other of its kind is in service."""
        aside = self.drift.aside(time.monotonic(), alone)
        self.state = "set aside" if aside else "in service"
        return not aside

    async def revive(self) -> None:
        """Start the actor again after it died.

        Raises:
            DeviceError: if its node is gone, or it does not start.
        """
        self.state = "starting"
        self._counts["deaths"] += 1
        if not await self._has_node():
            raise DeviceError(f"device {self.name} must answer, but its node is gone")
        await self.start()

    async def _has_node(self) -> bool:
        return await asyncio.to_thread(is_alive, self.place.node)

    def lose(self, why: str) -> None:
        """Give the device up: it is not started again."""
        self.state, self._why = "lost", why
        self.close()

    def close(self) -> None:
        """End the actor."""
        if self._actor is not None:
            ray.kill(cast(ActorHandle[DeviceActor], self._actor))
            self._actor = None

    @property
    def status(self) -> Status:
        """What it did and how it is."""
        described = self._described
        return Status(
            device=str(self.name),
            actor=described.actor,
            node=self.place.node,
            fingerprint=described.fingerprint,
            state=self.state,
            why=self._why,
            drift=round(self.drift.now, 4),
            **self._counts,
        )


async def _answer(name: DeviceName, reference: Awaitable[T]) -> T:
    try:
        return await reference
    except (ray.exceptions.RayActorError, ray.exceptions.ActorUnschedulableError) as error:
        raise ActorDiedError(typed_line(error)) from None
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None)
        if isinstance(cause, ManynetError):
            raise cause from None
        raise MeasurementError(f"{name} could not measure the network: {typed_line(error)}") from None
