"""Subnets as files: safetensors with arch.json, ONNX and torch.export, each read back and compared."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_model

from manynet.space.search_space import SearchSpace
from manynet.space.subnet import ExportError, Subnet

Inputs = tuple[torch.Tensor, ...]
TOLERANCE = 1e-4


def export(
    subnet: Subnet,
    folder: Path,
    space: SearchSpace,
    space_reference: str,
    inputs: Inputs,
    about: Mapping[str, Any] | None = None,
) -> None:
    """Write ``arch.json``, ``weights.safetensors``, ``model.pt2`` and ``model.onnx`` to ``folder``.

    Each is loaded again and run on ``inputs``; nothing is handed over that does not give the
    subnet's own outputs. Both programs take any batch size, unless the network cannot: then they take
    one example at a time, and ``arch.json`` says so.

    Args:
        subnet: on the CPU.
        folder: is created.
        space: of the subnet.
        space_reference: where the space is found again: ``module:name`` or ``script.py:name``.
        inputs: real examples, batch first; two or more.
        about: further entries of ``arch.json``.

    Raises:
        ExportError: when a file's outputs differ by more than 1e-4.
    """
    subnet = subnet.eval()
    folder.mkdir(parents=True, exist_ok=True)
    with torch.no_grad():
        expected = subnet(*inputs)
    with _quiet():
        program, any_batch = _program(subnet, inputs)
        torch.export.save(program, folder / "model.pt2")
        torch.onnx.export(program, (), folder / "model.onnx", dynamo=True, external_data=False, verbose=False)
    write_weights(subnet, folder, space, space_reference, any_batch, about)
    whole = len(inputs[0]) if any_batch else 1
    _compare("weights.safetensors", Subnet.load(folder, space), inputs, expected, len(inputs[0]))
    _compare("model.pt2", torch.export.load(folder / "model.pt2").module(), inputs, expected, whole)
    _compare("model.onnx", _onnx_runner(folder / "model.onnx"), inputs, expected, whole)


def write_weights(
    subnet: Subnet,
    folder: Path,
    space: SearchSpace,
    space_reference: str,
    any_batch: bool,
    about: Mapping[str, Any] | None = None,
) -> None:
    """Write ``arch.json`` and ``weights.safetensors``, which :meth:`Subnet.load` reads.

    Arguments are those of :func:`export`; ``any_batch`` is whether its programs take any batch size.
    """
    save_model(subnet.network, str(folder / "weights.safetensors"))
    description = {
        "space": space_reference,
        "space_digest": space.digest,
        "features": space.features.to_dict() if space.features else None,
        "architecture": subnet.arch,
        "inputs": {
            name: {"shape": s, "dtype": str(d).removeprefix("torch.")}
            for name, (s, d) in space.inputs(subnet.arch).items()
        },
        "batch": "any" if any_batch else 1,
        **(about or {}),
    }
    (folder / "arch.json").write_text(json.dumps(description, indent=2) + "\n")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep PyTorch's exporters from warning of their own insides and of packages that are not needed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
        yield


def _program(subnet: Subnet, inputs: Inputs) -> tuple[torch.export.ExportedProgram, bool]:
    """The subnet as a program, and whether its batch size is free."""
    batch = torch.export.Dim("batch")
    pair = tuple(x[:2] for x in inputs)
    try:
        return torch.export.export(subnet, pair, dynamic_shapes=(tuple({0: batch} for _ in inputs),)), True
    except (torch._dynamo.exc.UserError, RuntimeError, ValueError):
        return torch.export.export(subnet, tuple(x[:1] for x in inputs)), False


def _compare(name: str, run: Callable[..., Any], inputs: Inputs, expected: torch.Tensor, size: int) -> None:
    with torch.no_grad():
        parts = [run(*(x[i : i + size] for x in inputs)) for i in range(0, len(inputs[0]), size)]
    difference = float((torch.cat(parts) - expected).abs().max())
    if not difference <= TOLERANCE:
        raise ExportError(
            f"{name} must give the subnet's outputs to {TOLERANCE}, but they differ by {difference:.2g}"
        )


def _onnx_runner(path: Path) -> Callable[..., torch.Tensor]:
    """Runs a model in ONNX Runtime, or in ONNX's slower reference evaluator where that is missing."""
    if find_spec("onnxruntime") is not None:
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        names = [entry.name for entry in session.get_inputs()]
    else:
        from onnx.reference import ReferenceEvaluator

        session = ReferenceEvaluator(str(path))
        names = session.input_names

    def run(*inputs: torch.Tensor) -> torch.Tensor:
        arrays = {name: x.numpy() for name, x in zip(names, inputs, strict=True)}
        return torch.from_numpy(np.asarray(session.run(None, arrays)[0]))

    return run
