"""The tool ``command``: a user's own program gets an ONNX file and prints milliseconds, for boards without Ray."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

from torch import Tensor, nn

from manynet.devices.errors import DeviceError
from manynet.devices.lease import Lease
from manynet.devices.name import DeviceName
from manynet.devices.timing import Timing, summarise
from manynet.devices.tools.base import Tool, repeated
from manynet.devices.tools.boards import VARIABLE, Board, boards, declaration
from manynet.devices.tools.onnx_export import exported
from manynet.devices.tools.program import printed_milliseconds


class Command(Tool):
    """Calls the command that is declared for a board. The program warms up by itself.

    Args:
        label: the board's. ``host`` is this machine; any other is taken to be one of its own.
    """

    takes_gpus = True

    def __init__(self, label: str) -> None:
        self.label = label

    @cached_property
    def board(self) -> Board:
        """The board's declaration.

        Raises:
            DeviceError: if there is none, or it is wrong.
        """
        declared = boards()
        if self.label not in declared:
            named = ", ".join(declared) or "none"
            raise DeviceError(
                f"a command for {self.label} must be declared in the file that {VARIABLE} names, but got {named}"
            )
        return declared[self.label]

    @property
    def limit_seconds(self) -> float:  # type: ignore[override]
        """Room for every call to reach its own time-out first."""
        return self.board.calls * self.board.timeout_seconds + 60

    def missing(self, name: DeviceName) -> str | None:
        try:
            _ = self.board
        except DeviceError as error:
            return str(error)
        return None

    def version(self) -> str:
        return self.board.command

    def hardware(self) -> str:
        return self.board.hardware

    def lease(self, host: Lease) -> Lease:
        if self.label == "host":
            return host
        # A board of its own disturbs no evaluator here, but two measurements on it would disturb each other.
        folder = host.folder / f"manynet-{self.label}"
        folder.mkdir(exist_ok=True)
        return Lease(folder, host.wait_seconds)

    def prepare(
        self, subnet: nn.Module, example: tuple[Tensor, ...], name: DeviceName
    ) -> Callable[[], Timing]:
        model = exported(subnet, repeated(example, name.batch))
        return lambda: self._timing(model, name)

    def _timing(self, model: bytes, name: DeviceName) -> Timing:
        file = declaration()
        assert file is not None  # a board was declared
        with TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            path.write_bytes(model)
            words = self.board.words(path, name.batch, name.threads)
            seconds = self.board.timeout_seconds
            calls = range(self.board.calls)
            return summarise([printed_milliseconds(words, file.parent, seconds) / 1e3 for _ in calls])
