"""A network as an ONNX model in memory: what every tool that reads ONNX starts from."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn

from manynet.devices.errors import MeasurementError
from manynet.errors import typed_line


def exported(subnet: nn.Module, inputs: tuple[Tensor, ...]) -> bytes:
    """``subnet`` in evaluation mode as a serialised ONNX model for the shapes of ``inputs``. Takes seconds.

    Raises:
        MeasurementError: if it cannot be exported, with the operator or expression that stands against it.
    """
    try:
        with torch.no_grad():
            program = torch.onnx.export(deepcopy(subnet).eval(), inputs, dynamo=True, verbose=False)
    except Exception as error:  # noqa: BLE001 - the exporter lets through whatever tracing raises
        raise MeasurementError(f"export to ONNX failed: {typed_line(_root(error))}") from None
    if program is None:
        raise RuntimeError("torch.onnx.export must return a program, but got None")
    return bytes(program.model_proto.SerializeToString())


def _root(error: BaseException) -> BaseException:
    # The outer errors say only in which step of the export something failed.
    while error.__cause__ is not None:
        error = error.__cause__
    return error
