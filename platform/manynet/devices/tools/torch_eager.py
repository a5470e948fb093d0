"""The tool ``torch``: the network as it is, run eagerly on the processor."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import torch
from torch import Tensor, nn

from manynet.devices.errors import DeviceError
from manynet.devices.name import DeviceName
from manynet.devices.tools._base import Tool, repeated


class TorchEager(Tool):
    """Eager torch in inference mode. ``bf16`` casts weights and inputs once, before any run."""

    precisions = ("float32", "bf16")

    def check(self, name: DeviceName) -> None:
        super().check(name)
        # Measured on the processor, a GPU's name in the ledger would be a lie.
        if name.device.startswith(("cuda", "gpu")):
            raise DeviceError(f"the tool torch measures on processors, but got '{name}'")

    def version(self) -> str:
        return str(torch.__version__)

    def prepare(self, subnet: nn.Module, example: tuple[Tensor, ...], name: DeviceName) -> Callable[[], None]:
        torch.set_num_threads(name.threads)
        dtype = torch.bfloat16 if name.precision == "bf16" else torch.float32
        # Cast, not autocast: autocast casts every weight again in every run, which no deployment does.
        network = deepcopy(subnet).to(dtype).eval()
        inputs = tuple(
            tensor.to(dtype) if tensor.is_floating_point() else tensor
            for tensor in repeated(example, name.batch)
        )

        @torch.inference_mode()
        def run() -> None:
            network(*inputs)

        run()
        return run
