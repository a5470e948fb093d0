"""The tool ``torch``: the network as it is, run eagerly on the processor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from manynet.devices.name import DeviceName
from manynet.devices.tools.in_process import InProcessTool
from manynet.devices.tools.torch_network import caller, placed


class TorchEager(InProcessTool):
    """Eager torch in inference mode. ``bf16`` casts weights and inputs once, before any run."""

    precisions = ("float32", "bf16")

    def version(self) -> str:
        return str(torch.__version__)

    def loaded(self, subnet: nn.Module, example: tuple[Tensor, ...], name: DeviceName) -> Callable[[], Any]:
        return caller(*placed(subnet, example, name, "cpu"))
