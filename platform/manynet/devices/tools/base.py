"""What a deployment tool must do: say its version and make a network ready to be timed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING

from manynet.devices.errors import DeviceError
from manynet.devices.fingerprint import fingerprint
from manynet.devices.lease import Lease
from manynet.devices.name import DeviceName
from manynet.devices.timing import Timing

if TYPE_CHECKING:
    # The device service, which holds no network, needs no PyTorch.
    from torch import Tensor, nn


class Tool(ABC):
    """A way to deploy a network: eager torch, an inference runtime, a program on a board.

    A tool of one's own is named ``host/module:name`` wherever a device is; the name is the class, a function that
    gives one without arguments, or an instance. It is made in the process of the device's actor. A subclass
    defines :meth:`version` and :meth:`prepare`; where a run is a call in this process,
    :class:`~manynet.devices.tools.in_process.InProcessTool` defines :meth:`prepare` and asks for less.
    :func:`manynet.testing.check_tool` says what is wrong with one.

    Attributes:
        precisions: that it honours, ``float32`` and perhaps ``bf16``.
        takes_gpus: whether it measures on GPUs, whose labels start with ``cuda`` or ``gpu``.
        takes_boards: whether it reaches devices of other labels than ``host`` from the machine of the study, by
            whatever means it has. Without it, such a label must be offered by a node of the cluster.
        limit_seconds: of one timing; the process is ended after it.
    """

    precisions: tuple[str, ...] = ("float32",)
    takes_gpus = False
    takes_boards = False
    limit_seconds = 300.0

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
        """The tool's version, in one line without commas."""

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

        What is returned is called with the machine to itself, perhaps more than once;
        :func:`manynet.devices.timing.time_run` makes a :class:`~manynet.devices.timing.Timing` of a function that
        runs the network once. What it holds must go when it does.

        Args:
            subnet: called ``subnet(*example)``, in evaluation mode.
            example: inputs ``(1, ...)``; a run takes them repeated to ``name.batch``, see :func:`repeated`.
            name: batch, threads and precision.

        Raises:
            MeasurementError: if the tool cannot convert or run this network.
        """

    def outputs(
        self, subnet: nn.Module, example: tuple[Tensor, ...], name: DeviceName
    ) -> tuple[Tensor, ...] | None:
        """What one run gives, each ``(batch, ...)``; None where the tool cannot tell.

        :func:`manynet.testing.check_tool` compares them with PyTorch's. Arguments are those of :meth:`prepare`.
        """
        return None


def check_batch_of_one(example: tuple[Tensor, ...]) -> None:
    """Refuse inputs other than ``(1, ...)``.

    Raises:
        ValueError: if an input's first dimension is not 1.
    """
    for tensor in example:
        if tensor.dim() == 0 or tensor.shape[0] != 1:
            raise ValueError(f"an example to measure must have batch 1, but got shape {tuple(tensor.shape)}")


def repeated(example: tuple[Tensor, ...], batch: int) -> tuple[Tensor, ...]:
    """Inputs ``(1, ...)`` repeated to ``(batch, ...)``, in memory of their own.

    Raises:
        ValueError: if an input's first dimension is not 1.
    """
    check_batch_of_one(example)
    return tuple(tensor.detach().repeat(batch, *[1] * (tensor.dim() - 1)) for tensor in example)
