"""Deployment tools, each imported only when a device needs it."""

from manynet import references
from manynet.devices.errors import DeviceError
from manynet.devices.name import DeviceName
from manynet.devices.tools.base import Tool
from manynet.errors import ManynetError, typed_line

NAMES = ("torch", "torch.compile", "onnxruntime", "openvino", "command")


def tool_of(name: DeviceName) -> Tool:
    """The tool that ``name`` asks for, settings checked.

    Raises:
        DeviceError: if there is no such tool, it cannot be made, or it does not allow the settings.
    """
    if not name.has_own_tool:
        tool = _tool(name)
        tool.check(name)
        return tool
    try:
        tool = references.make(Tool, name.tool)  # type: ignore[type-abstract]
        tool.check(name)
    except DeviceError:
        raise
    except ManynetError as error:
        raise DeviceError(f"the tool of '{name}' cannot be used: {error}") from error
    except Exception as error:
        raise DeviceError(
            f"the tool of '{name}' could not check its settings: {typed_line(error)}"
        ) from error
    return tool


def described(tool: Tool, name: DeviceName) -> tuple[str, str]:
    """The hardware that a tool runs on, and the tool's version, each a line.

    Raises:
        DeviceError: if it cannot be used for ``name`` on this machine, with what is missing.
    """
    try:
        reason = tool.missing(name)
        if reason is None:
            return str(tool.hardware()), str(tool.version())
    except Exception as error:  # noqa: BLE001 - a user's own tool may fail in any way
        reason = typed_line(error)
    raise DeviceError(f"{name.base} cannot be used: {reason}")


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
    raise DeviceError(
        f"deployment tool must be one of {', '.join(NAMES)} or module:name, but got {name.tool!r} in '{name}'"
    )
