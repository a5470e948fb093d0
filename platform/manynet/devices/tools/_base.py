"""What a deployment tool must do: say its version and make a network ready to run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Tensor, nn

from manynet.devices.errors import DeviceError
from manynet.devices.name import DeviceName


class Tool(ABC):
    """A way to deploy a network: eager torch, an inference runtime."""

    precisions: tuple[str, ...] = ("float32",)

    def check(self, name: DeviceName) -> None:
        """Refuse settings this tool cannot honour.

        Raises:
            DeviceError: with what is allowed.
        """
        if name.precision not in self.precisions:
            allowed = ", ".join(self.precisions)
            raise DeviceError(
                f"precision of {name.base} must be one of {allowed}, but got {name.precision!r}"
            )

    def missing(self) -> str | None:
        """Why this tool cannot be used on this machine, or None if it can."""
        return None

    @abstractmethod
    def version(self) -> str:
        """The tool's version."""

    @abstractmethod
    def prepare(self, subnet: nn.Module, example: tuple[Tensor, ...], name: DeviceName) -> Callable[[], None]:
        """Convert ``subnet``, which stays as it is, and return one run of it on the whole batch.

        Args:
            subnet: called ``subnet(*example)``.
            example: inputs ``(1, ...)``; the run repeats them to ``name.batch``.
            name: batch, threads and precision.
        """


def repeated(example: tuple[Tensor, ...], batch: int) -> tuple[Tensor, ...]:
    """Inputs ``(1, ...)`` repeated to ``(batch, ...)``, in memory of their own.

    Raises:
        ValueError: if an input's first dimension is not 1.
    """
    for tensor in example:
        if tensor.dim() == 0 or tensor.shape[0] != 1:
            raise ValueError(f"an example to measure must have batch 1, but got shape {tuple(tensor.shape)}")
    return tuple(tensor.detach().repeat(batch, *[1] * (tensor.dim() - 1)) for tensor in example)
