"""What a deployment tool must do: say its version and make a network ready to be timed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Tensor, nn

from manynet.devices.errors import DeviceError
from manynet.devices.fingerprint import fingerprint
from manynet.devices.lease import Lease
from manynet.devices.name import DeviceName
from manynet.devices.timing import Timing


class Tool(ABC):
    """A way to deploy a network: eager torch, an inference runtime."""

    precisions: tuple[str, ...] = ("float32",)
    takes_gpus = False
    limit_seconds = 300.0  # of one timing

    def check(self, name: DeviceName) -> None:
        """Refuse settings this tool cannot honour.

        Raises:
            DeviceError: with what is allowed.
        """
        if name.on_gpu and not self.takes_gpus:
            # Measured on the processor, a GPU's name in the ledger would be a lie.
            raise DeviceError(
                f"the tool {name.tool} measures on processors (on GPUs: cuda/torch), but got '{name}'"
            )
        if name.precision not in self.precisions:
            allowed = ", ".join(self.precisions)
            raise DeviceError(
                f"precision of {name.base} must be one of {allowed}, but got {name.precision!r}"
            )

    def missing(self, name: DeviceName) -> str | None:
        """Why this tool cannot be used for ``name`` on this machine, or None if it can."""
        return None

    @abstractmethod
    def version(self) -> str:
        """The tool's version."""

    def hardware(self) -> str:
        """What a network runs on, in one line; asked for only where nothing is missing."""
        return fingerprint()

    def lease(self, host: Lease) -> Lease:
        """What a timing holds alone: ``host``, this machine's lease, unless it runs elsewhere."""
        return host

    @abstractmethod
    def prepare(
        self, subnet: nn.Module, example: tuple[Tensor, ...], name: DeviceName
    ) -> Callable[[], Timing]:
        """Convert ``subnet``, which stays as it is, and return what times its runs on the whole batch.

        Args:
            subnet: called ``subnet(*example)``.
            example: inputs ``(1, ...)``; a run takes them repeated to ``name.batch``.
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
