"""The tool ``onnxruntime``: the network exported to ONNX, run by ONNX Runtime on the processor."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from manynet.devices.name import DeviceName
from manynet.devices.tools.base import repeated
from manynet.devices.tools.in_process import InProcessTool
from manynet.devices.tools.onnx_export import exported


class OnnxRuntime(InProcessTool):
    """ONNX Runtime's processor backend, all graph optimisations on. An export takes seconds."""

    def missing(self, name: DeviceName) -> str | None:
        if importlib.util.find_spec("onnxruntime") is None:
            return "onnxruntime is not installed: pip install manynet[devices]"
        return None

    def version(self) -> str:
        return importlib.metadata.version("onnxruntime")

    def loaded(self, subnet: nn.Module, example: tuple[Tensor, ...], name: DeviceName) -> Callable[[], Any]:
        import onnxruntime

        inputs = repeated(example, name.batch)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = name.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(
            exported(subnet, inputs), options, providers=["CPUExecutionProvider"]
        )
        names = [node.name for node in session.get_inputs()]
        feed = {key: tensor.numpy() for key, tensor in zip(names, inputs, strict=True)}

        return lambda: session.run(None, feed)
