"""Measures a latency table: times the operations of a space on a device."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from manynet.devices.name import DeviceName
from manynet.devices.timing import time_run
from manynet.elastic.recorder import Use
from manynet.elastic.replacing import copied, replace_tensors
from manynet.elastic.watched import silence
from manynet.errors import ManynetError
from manynet.latency.operation_families import Family, families, farthest_points
from manynet.latency.operations import Call, LatencyTableError, Operation, every_operation
from manynet.latency.table import LatencyTable
from manynet.latency.table_fit import MeasuredSubnet, fitted
from manynet.space.search_space import SearchSpace
from manynet.space.subnet import extract

Measure = Callable[[nn.Module, tuple[Tensor, ...]], float]
"""Milliseconds of a network on inputs ``(1, ...)``."""
Progress = Callable[[int, int], None]
"""Callback that takes the numbers of measurements done and in all."""


def time_on_cpu(network: nn.Module, inputs: tuple[Tensor, ...]) -> float:
    """Milliseconds of eager PyTorch on this machine's CPU, on one thread."""

    @torch.inference_mode()
    def run() -> None:
        network(*inputs)

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return time_run(run).milliseconds
    finally:
        torch.set_num_threads(before)


def device_name(text: str) -> str:
    """The canonical name of a device for a table.

    Raises:
        DeviceError: when it is misspelt.
        LatencyTableError: when its batch is not 1, or it does not measure.
    """
    name = DeviceName.parse(text)
    if name.batch != 1:
        raise LatencyTableError(f"a table holds times at batch 1, but got batch {name.batch} in {text!r}")
    if name.source != "measured":
        raise LatencyTableError(f"a table holds measured times, but got source={name.source} in {text!r}")
    return str(name)


def measure_table(
    space: SearchSpace,
    measure: Measure,
    device: str,
    tool: str,
    points: int = 16,
    subnets: int = 20,
    progress: Progress = lambda done, total: None,
) -> LatencyTable:
    """Measure the operations of a space at batch 1: :func:`manynet.latency.operations.every_operation`.

    Operations that differ in channels, tokens or features alone are a family. Of a family, ``points`` operations far
    from each other are measured, and the others interpolated. Operations outside elastic layers (activations,
    pooling, sums) are not measured, and a network is not the sum of its layers run alone. Therefore factor, time of a
    call and time of a network are fitted to whole subnets.

    Args:
        space: whose operations these are.
        measure: :func:`time_on_cpu`, or a device of a pool:
            ``lambda network, inputs: pool.measure(network, inputs)[name].milliseconds``.
        device: its name, for display.
        tool: that measures, with its settings, for display.
        points: operations to measure of a family.
        subnets: number of whole subnets to measure, random ones of seeds from 0; with 0, nothing is fitted.
        progress: called before each measurement, and after the last.

    Raises:
        LatencyTableError: when a layer does not record its input, or the device cannot measure an operation.
    """
    operations = every_operation(space)
    grouped = families(list(operations))
    timed = [operation for family in grouped.values() for operation in farthest_points(family, points)]
    total = len(timed) + subnets
    measured = {}
    for done, operation in enumerate(timed):
        progress(done, total)
        network_and_inputs = single_operation(operations[operation], operation)
        measured[str(operation)] = _checked(str(operation), measure, *network_and_inputs)
    table = LatencyTable(
        device=device,
        tool=tool,
        unit="ms",
        rows="operations",
        measured=measured,
        interpolated=_interpolated(grouped, measured),
    )
    whole_subnets = measure_subnets(
        space, measure, range(subnets), lambda done, _: progress(len(timed) + done, total)
    )
    return fitted(table, space, whole_subnets) if whole_subnets else table


def measure_subnets(
    space: SearchSpace, measure: Measure, seeds: Sequence[int], progress: Progress = lambda done, total: None
) -> list[MeasuredSubnet]:
    """Measure the random architectures of ``seeds`` as whole subnets, with random weights.

    Raises:
        LatencyTableError: when the device cannot measure one.
    """
    network = space.build().eval()
    measured = []
    for done, seed in enumerate(seeds):
        progress(done, len(seeds))
        arch = space.sample(seed)
        example = space.example(arch, 1)
        subnet = extract(network, arch, example, share=True)
        measured.append(MeasuredSubnet(arch, _checked(f"subnet {space.key(arch)}", measure, subnet, example)))
    progress(len(seeds), len(seeds))
    return measured


def single_operation(call: Call, operation: Operation) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """A network of one operation (the call's layer with the operation's sizes), and its inputs."""
    layer = copy.deepcopy(call.layer)
    # There is no recorder here, but reporting to one takes time.
    silence(layer)
    parts = layer.narrowed([Use(dict(operation.sizes), call.geometry)])
    wholes = {name: layer.get_tensor(name) for name in parts}
    replace_tensors(layer, {id(whole): copied(parts[name], whole) for name, whole in wholes.items()})
    layer.to_empty(device="cpu")
    for tensor in (*layer.parameters(), *layer.buffers()):
        # Uninitialised memory can hold numbers that compute slower.
        tensor.detach().fill_(1)
    inputs, arguments = layer.example(operation.input, call.geometry)
    return (_WithArguments(layer, arguments) if arguments else layer).eval(), inputs


class _WithArguments(nn.Module):
    """A layer with fixed keyword arguments."""

    def __init__(self, layer: nn.Module, arguments: Any) -> None:
        super().__init__()
        self.layer = layer
        self.arguments = dict(arguments)

    def forward(self, *inputs: Tensor) -> Any:
        return self.layer(*inputs, **self.arguments)


def _interpolated(grouped: dict[str, list[Operation]], measured: dict[str, float]) -> dict[str, float]:
    interpolated: dict[str, float] = {}
    for pattern, family in grouped.items():
        rest = [operation for operation in family if str(operation) not in measured]
        interpolated |= dict(zip(map(str, rest), Family(pattern, measured).interpolate(rest), strict=True))
    return interpolated


def _checked(name: str, measure: Measure, network: nn.Module, inputs: tuple[Tensor, ...]) -> float:
    """Milliseconds of a named network by ``measure``, checked."""
    try:
        time = measure(network, inputs)
    except ManynetError as error:
        raise LatencyTableError(f"a device must measure all of a table, but not {name!r}: {error}") from None
    if not 0 < time < math.inf:
        raise LatencyTableError(f"milliseconds must be more than 0, but got {time:g} for {name!r}")
    return time
