"""The devices of a study: one actor per name, and the host's lease for evaluators."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Any, Self, cast

import ray
from ray.actor import ActorHandle, ActorProxy
from torch import Tensor, nn

from manynet.devices.actor import Description, DeviceActor
from manynet.devices.errors import DeviceError, MeasurementError, first_line
from manynet.devices.lease import Lease
from manynet.devices.measurement import Measurement
from manynet.devices.name import DeviceName
from manynet.devices.placement import actor_options
from manynet.devices.tools import tool_of
from manynet.errors import ManynetError

START_SECONDS = 180.0
CHECK_SECONDS = 30.0


class DevicePool:
    """Device actors for ``names``. Pickles into Ray tasks and actors; the process that made it owns them.

    Args:
        names: device names, e.g. ``["host/torch", "host/onnxruntime?threads=2"]``; may be empty.

    Raises:
        DeviceError: if a name is misspelt, nobody serves it, or its tool is missing or refuses its settings.
    """

    def __init__(self, names: Sequence[str]) -> None:
        parsed = list(dict.fromkeys(DeviceName.parse(name) for name in names))
        for name in parsed:
            tool_of(name)
        options = {name: actor_options(name) for name in parsed}
        self._actors = {name: start(name, options[name]) for name in parsed}
        try:
            self.descriptions = {str(name): describe(name, actor) for name, actor in self._actors.items()}
        except DeviceError:
            self.close()
            raise

    @property
    def names(self) -> tuple[str, ...]:
        """Canonical names, in the order given."""
        return tuple(str(name) for name in self._actors)

    def measure(self, subnet: nn.Module, example: tuple[Tensor, ...]) -> dict[str, Measurement]:
        """Measure ``subnet`` on every device; blocks. Never call it while holding ``lease()``.

        An actor that dies is restarted and tries once more.

        Args:
            subnet: called ``subnet(*example)``.
            example: inputs ``(1, ...)``.

        Returns:
            One measurement per canonical name.

        Raises:
            MeasurementError: if a tool cannot convert or run this network; others may still be measured.
            DeviceError: if a device died twice on this network, or its node is gone.
        """
        if not self._actors:
            return {}
        network, inputs = ray.put(subnet), ray.put(example)
        pending = {name: actor.measure.remote(network, inputs) for name, actor in self._actors.items()}
        return {str(name): _answer(name, reference) for name, reference in pending.items()}

    def lease(self) -> AbstractContextManager[None]:
        """The shared lease of the host this is called on: enter it for each batch of an evaluation."""
        return Lease().shared() if self._actors else nullcontext()

    def close(self) -> None:
        """End the actors."""
        for actor in self._actors.values():
            ray.kill(cast(ActorHandle[DeviceActor], actor))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def start(name: DeviceName, options: dict[str, Any]) -> ActorProxy[DeviceActor]:
    """Start the actor of ``name``; Ray restarts it when it dies and tries its task once more."""
    actor_class = ray.remote(DeviceActor)
    return actor_class.options(num_cpus=0, max_restarts=-1, max_task_retries=1, **options).remote(
        name, Lease()
    )


def describe(name: DeviceName, actor: ActorProxy[DeviceActor]) -> Description:
    """Wait for ``actor`` to be up and say what it runs on.

    Raises:
        DeviceError: if its tool is missing, or it does not start.
    """
    try:
        return ray.get(actor.describe.remote(), timeout=START_SECONDS)
    except ray.exceptions.GetTimeoutError:
        raise DeviceError(f"device {name} must start within {START_SECONDS:g} s, but got no answer") from None
    except ray.exceptions.RayError as error:
        raise _plain(name, error) from None


def _answer(name: DeviceName, reference: ray.ObjectRef[Measurement]) -> Measurement:
    while not ray.wait([reference], timeout=CHECK_SECONDS)[0]:
        # An actor whose node is gone would be waited for without end.
        actor_options(name)
    try:
        return ray.get(reference)
    except ray.exceptions.RayError as error:
        raise _plain(name, error) from None


def _plain(name: DeviceName, error: ray.exceptions.RayError) -> ManynetError:
    cause = getattr(error, "cause", None)
    if isinstance(cause, ManynetError):
        return cause
    if isinstance(error, ray.exceptions.RayActorError):
        return DeviceError(f"device {name} must answer, but its process died twice on the same request")
    return MeasurementError(f"{name} could not measure the network: {first_line(error)}")
