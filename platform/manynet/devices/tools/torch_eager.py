"""The tool ``torch``: the network as it is, run eagerly on the processor."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from manynet.devices.name import DeviceName
from manynet.devices.timing import Timing, time_run
from manynet.devices.tools._base import Tool
from manynet.devices.tools.torch_network import placed, warmed


class TorchEager(Tool):
    """Eager torch in inference mode. ``bf16`` casts weights and inputs once, before any run."""

    precisions = ("float32", "bf16")

    def version(self) -> str:
        return str(torch.__version__)

    def prepare(
        self, subnet: nn.Module, example: tuple[Tensor, ...], name: DeviceName
    ) -> Callable[[], Timing]:
        run = warmed(*placed(subnet, example, name, "cpu"))
        return lambda: time_run(run)
