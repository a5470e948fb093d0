"""A network and its inputs as PyTorch's own tools run them: copied, cast once, on their device."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from manynet.devices.name import DeviceName
from manynet.devices.tools.base import repeated


def placed(
    subnet: nn.Module, example: tuple[Tensor, ...], name: DeviceName, device: str
) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """A copy of ``subnet`` in evaluation mode and inputs of ``name.batch``, in ``name.precision`` on ``device``.

    Sets this process's threads to ``name.threads``. Whole numbers stay whole.

    Args:
        subnet: stays as it is.
        example: inputs ``(1, ...)``.
        name: batch, threads and precision.
        device: PyTorch's name of it, e.g. ``cpu``.
    """
    torch.set_num_threads(name.threads)
    dtype = torch.bfloat16 if name.precision == "bf16" else torch.float32
    # Cast, not autocast: autocast casts every weight again in every run, which no deployment does.
    network = deepcopy(subnet).to(device, dtype).eval()
    inputs = tuple(
        tensor.to(device, dtype) if tensor.is_floating_point() else tensor.to(device)
        for tensor in repeated(example, name.batch)
    )
    return network, inputs


def caller(network: Callable[..., Any], inputs: tuple[Tensor, ...]) -> Callable[[], Any]:
    """A call of ``network`` in inference mode."""

    @torch.inference_mode()
    def run() -> Any:
        return network(*inputs)

    return run
