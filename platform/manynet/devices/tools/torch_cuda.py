"""The tool ``torch`` on a GPU: the network as it is, run eagerly through CUDA and timed by its events."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from manynet.devices.fingerprint import fingerprint
from manynet.devices.name import DeviceName
from manynet.devices.timing import Timing, calmest, warm_group
from manynet.devices.tools.in_process import InProcessTool, refused
from manynet.devices.tools.torch_network import caller, placed


class TorchCuda(InProcessTool):
    """Eager torch in inference mode on the GPU that CUDA names first. ``bf16`` casts once, before any run."""

    precisions = ("float32", "bf16")
    takes_gpus = True

    def missing(self, name: DeviceName) -> str | None:
        if torch.version.cuda is None:
            return f"torch must be built for CUDA, but got {torch.__version__}"
        if not torch.cuda.is_available():
            return "torch finds no GPU that CUDA can use on this machine"
        return None

    def version(self) -> str:
        return str(torch.__version__)

    def hardware(self) -> str:
        return f"{torch.cuda.get_device_name()}, {fingerprint()}"

    def loaded(self, subnet: nn.Module, example: tuple[Tensor, ...], name: DeviceName) -> Callable[[], Any]:
        return caller(*placed(subnet, example, name, "cuda"))

    def prepare(
        self, subnet: nn.Module, example: tuple[Tensor, ...], name: DeviceName
    ) -> Callable[[], Timing]:
        with refused():
            run = self.loaded(subnet, example, name)
            run()
            torch.cuda.synchronize()
        return lambda: time_by_events(run)


def time_by_events(run: Callable[[], None]) -> Timing:
    """Time ``run`` as :func:`manynet.devices.timing.time_run` does, but by events on the GPU's own stream.

    The wall clock around a run would tell how fast kernels are queued, not how fast they end.
    """

    def to_the_end() -> None:
        run()
        torch.cuda.synchronize()

    group = warm_group(to_the_end)
    return calmest(lambda: _event_seconds(run, group))


def _event_seconds(run: Callable[[], None], group: int) -> float:
    """Seconds of one run between two events, averaged over ``group`` runs."""
    first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    first.record()
    for _ in range(group):
        run()
    last.record()
    torch.cuda.synchronize()
    return float(first.elapsed_time(last)) / 1e3 / group
