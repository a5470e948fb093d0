"""Deployment tools, each imported only when a device needs it."""

from manynet.devices.errors import DeviceError
from manynet.devices.name import DeviceName
from manynet.devices.tools._base import Tool

NAMES = ("torch", "torch.compile", "onnxruntime", "openvino", "command")


def tool_of(name: DeviceName) -> Tool:
    """The tool that ``name`` asks for, settings checked.

    Raises:
        DeviceError: if there is no such tool, or it does not allow the settings.
    """
    tool = _tool(name)
    tool.check(name)
    return tool


def _tool(name: DeviceName) -> Tool:
    match name.tool:
        case "torch" if name.device.startswith("cuda"):
            from manynet.devices.tools.torch_cuda import TorchCuda

            return TorchCuda()
        case "torch":
            from manynet.devices.tools.torch_eager import TorchEager

            return TorchEager()
        case "torch.compile":
            from manynet.devices.tools.torch_compile import TorchCompile

            return TorchCompile()
        case "onnxruntime":
            from manynet.devices.tools.onnx_runtime import OnnxRuntime

            return OnnxRuntime()
        case "openvino":
            from manynet.devices.tools.open_vino import OpenVino

            return OpenVino()
        case "command":
            from manynet.devices.tools.command import Command

            return Command(name.device)
    raise DeviceError(f"deployment tool must be one of {', '.join(NAMES)}, but got {name.tool!r} in '{name}'")
