"""Deployment tools, each imported only when a device needs it."""

from manynet.devices.errors import DeviceError
from manynet.devices.name import DeviceName
from manynet.devices.tools._base import Tool

NAMES = ("torch", "onnxruntime")


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
        case "torch":
            from manynet.devices.tools.torch_eager import TorchEager

            return TorchEager()
        case "onnxruntime":
            from manynet.devices.tools.onnx_runtime import OnnxRuntime

            return OnnxRuntime()
    raise DeviceError(f"deployment tool must be one of {', '.join(NAMES)}, but got {name.tool!r} in '{name}'")
