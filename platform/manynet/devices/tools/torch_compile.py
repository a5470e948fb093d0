"""The tool ``torch.compile``: the network compiled by Inductor for its own shapes, run on the processor."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from manynet.devices.errors import MeasurementError
from manynet.devices.name import DeviceName
from manynet.devices.tools.in_process import InProcessTool
from manynet.devices.tools.torch_network import caller, placed
from manynet.errors import typed_line

OPTIONS: dict[str, str | int | bool | Callable[..., Any]] = {
    "compile_threads": 1
}  # more would be a pool of processes that outlives the compilation


class TorchCompile(InProcessTool):
    """One graph, static shapes, inference mode. Compiling takes seconds and is not timed.

    A network that does not compile as one whole is refused: the rest would run eagerly without a word.
    """

    precisions = ("float32", "bf16")

    def missing(self, name: DeviceName) -> str | None:
        # Where Inductor looks itself.
        compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
        if shutil.which(compiler) is None:
            return f"a C++ compiler must be installed, but got no {compiler}: install it or set CXX"
        headers = Path(sysconfig.get_path("include"))
        if not (headers / "Python.h").exists():
            return f"Python's headers must be installed, but got no {headers / 'Python.h'}"
        return None

    def version(self) -> str:
        return str(torch.__version__)

    def loaded(self, subnet: nn.Module, example: tuple[Tensor, ...], name: DeviceName) -> Callable[[], Any]:
        network, inputs = placed(subnet, example, name, "cpu")
        try:
            run = caller(compiled(network, inputs), inputs)
            run()
        except Exception as error:  # noqa: BLE001 - compilers fail in any way
            raise MeasurementError(f"torch.compile failed: {typed_line(error)}") from None
        return run


def compiled(network: nn.Module, inputs: tuple[Tensor, ...]) -> Callable[..., Tensor]:
    """``network`` as one graph for the shapes of ``inputs`` and the threads now set; the first call compiles it."""
    # Exported first, as ONNX models are: Dynamo cannot trace the context variable that elastic layers read.
    with torch.no_grad():
        program = torch.export.export(network, inputs)
    return torch.compile(program.module(), dynamic=False, fullgraph=True, options=OPTIONS)
