"""The tool ``onnxruntime``: the network exported to ONNX, run by ONNX Runtime on the processor."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Callable
from copy import deepcopy

import torch
from torch import Tensor, nn

from manynet.devices.name import DeviceName
from manynet.devices.tools._base import Tool, repeated


class OnnxRuntime(Tool):
    """ONNX Runtime's processor backend, all graph optimisations on. An export takes seconds."""

    def missing(self) -> str | None:
        if importlib.util.find_spec("onnxruntime") is None:
            return "onnxruntime is not installed: pip install manynet[devices]"
        return None

    def version(self) -> str:
        return importlib.metadata.version("onnxruntime")

    def prepare(self, subnet: nn.Module, example: tuple[Tensor, ...], name: DeviceName) -> Callable[[], None]:
        import onnxruntime

        inputs = repeated(example, name.batch)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = name.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(
            _export(subnet, inputs), options, providers=["CPUExecutionProvider"]
        )
        names = [node.name for node in session.get_inputs()]
        feed = {key: tensor.numpy() for key, tensor in zip(names, inputs, strict=True)}

        def run() -> None:
            session.run(None, feed)

        run()
        return run


def _export(subnet: nn.Module, inputs: tuple[Tensor, ...]) -> bytes:
    with torch.no_grad():
        program = torch.onnx.export(deepcopy(subnet).eval(), inputs, dynamo=True, verbose=False)
    if program is None:
        raise RuntimeError("torch.onnx.export must return a program, but got None")
    return bytes(program.model_proto.SerializeToString())
