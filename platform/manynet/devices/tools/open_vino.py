"""The tool ``openvino``: the network exported to ONNX, run by OpenVINO on the processor."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from manynet.devices.errors import MeasurementError
from manynet.devices.name import DeviceName
from manynet.devices.tools.base import repeated
from manynet.devices.tools.in_process import InProcessTool
from manynet.devices.tools.onnx_export import exported
from manynet.errors import typed_line

UNCONVERTED = "No conversion rule found for operations: "
HINTS = {"float32": "f32", "bf16": "bf16"}


class OpenVino(InProcessTool):
    """OpenVINO's processor plugin, one stream. ``bf16`` is left to its own choice of layers."""

    precisions = ("float32", "bf16")

    def missing(self, name: DeviceName) -> str | None:
        if importlib.util.find_spec("openvino") is None:
            return "openvino is not installed: pip install manynet[devices]"
        if name.precision == "bf16" and "BF16" not in _capabilities():
            return f"bf16 needs a processor that OpenVINO runs it on, but got {' '.join(_capabilities())}"
        return None

    def version(self) -> str:
        return importlib.metadata.version("openvino")

    def loaded(self, subnet: nn.Module, example: tuple[Tensor, ...], name: DeviceName) -> Callable[[], Any]:
        inputs = repeated(example, name.batch)
        request = loaded(exported(subnet, inputs), name).create_infer_request()
        arrays = [tensor.numpy() for tensor in inputs]

        # Shared, as ONNX Runtime's inputs are: a copy of them is not the network's time.
        return lambda: request.infer(arrays, share_inputs=True, share_outputs=True)


def loaded(model: bytes, name: DeviceName) -> Any:
    """An ONNX model, compiled by OpenVINO for the threads and the precision of ``name``.

    Raises:
        MeasurementError: if OpenVINO has no rule for an operator, which it names.
    """
    import openvino

    # All told: by itself it takes every core, and bf16 wherever the processor has it. Pinned, a run could not
    # leave a core that something else takes.
    settings = {
        "INFERENCE_NUM_THREADS": name.threads,
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,
        "INFERENCE_PRECISION_HINT": HINTS[name.precision],
    }
    try:
        core = openvino.Core()
        return core.compile_model(core.read_model(model), "CPU", settings)
    except RuntimeError as error:
        raise MeasurementError(_reason(error)) from None


def _capabilities() -> list[str]:
    import openvino

    return list(openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))


def _reason(error: RuntimeError) -> str:
    # Its first lines name places in its own sources.
    for line in str(error).splitlines():
        if UNCONVERTED in line:
            return f"OpenVINO must have a rule for every operator, but got {line.partition(UNCONVERTED)[2]}"
    return f"OpenVINO could not load the network: {typed_line(error)}"
