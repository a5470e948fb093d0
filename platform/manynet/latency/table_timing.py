"""Times the operations of a space on a device, for a table of latency."""

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
from manynet.errors import ManynetError
from manynet.latency.operation_families import Family, apart, families
from manynet.latency.operations import Call, LatencyTableError, Operation, every_operation
from manynet.latency.table import LatencyTable
from manynet.latency.table_fit import Whole, fitted
from manynet.space.search_space import SearchSpace
from manynet.space.subnet import extract

Measure = Callable[[nn.Module, tuple[Tensor, ...]], float]
"""Milliseconds of a network on inputs ``(1, ...)``."""
Told = Callable[[int, int], None]
"""Gets how many measurements are done, and how many there are."""


def here(network: nn.Module, inputs: tuple[Tensor, ...]) -> float:
    """Milliseconds of eager PyTorch on this machine's processor, on one thread."""

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
    """The canonical name of a device whose times a table can hold.

    Raises:
        DeviceError: when it is misspelt.
        LatencyTableError: when it runs more than one example at a time, or does not measure.
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
    told: Told = lambda done, total: None,
) -> LatencyTable:
    """Measure the operations of a space at one example: :func:`manynet.latency.operations.every_operation`.

    Operations that differ in channels, tokens or features alone are a family. Of a larger family than ``points``
    so many are measured, far from each other, and the others are interpolated between them. What runs outside
    elastic layers (activations, pooling, sums) is not seen, and a network is not the sum of its layers run alone:
    so factor, time of a call and time of a network are fitted to whole subnets.

    Args:
        space: whose operations these are.
        measure: :func:`here`, or a device of a pool:
            ``lambda network, inputs: pool.measure(network, inputs)[name].milliseconds``.
        device: that this is, for people.
        tool: that measures, with its settings, for people.
        points: operations that are measured of a family.
        subnets: that are measured whole, random ones of seeds from 0; with none, nothing is fitted.
        told: is told before each measurement, and after the last.

    Raises:
        LatencyTableError: when a layer does not note its input, or the device cannot measure an operation.
    """
    operations = every_operation(space)
    grouped = families(list(operations))
    timed = [one for family in grouped.values() for one in apart(family, points)]
    total = len(timed) + subnets
    measured = {}
    for done, one in enumerate(timed):
        told(done, total)
        measured[str(one)] = _checked(str(one), measure, *alone(operations[one], one))
    table = LatencyTable(
        device=device,
        tool=tool,
        unit="ms",
        rows="operations",
        measured=measured,
        interpolated=_interpolated(grouped, measured),
    )
    wholes = measure_subnets(space, measure, range(subnets), lambda done, _: told(len(timed) + done, total))
    return fitted(table, space, wholes) if wholes else table


def measure_subnets(
    space: SearchSpace, measure: Measure, seeds: Sequence[int], told: Told = lambda done, total: None
) -> list[Whole]:
    """Measure the random architectures of ``seeds`` whole, with random weights.

    Raises:
        LatencyTableError: when the device cannot measure one.
    """
    network = space.build().eval()
    found = []
    for done, seed in enumerate(seeds):
        told(done, len(seeds))
        arch = space.sample(seed)
        example = space.example(arch, 1)
        subnet = extract(network, arch, example, share=True)
        found.append(Whole(arch, _checked(f"subnet {space.key(arch)}", measure, subnet, example)))
    told(len(seeds), len(seeds))
    return found


def alone(call: Call, operation: Operation) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """A network of one operation: the call's layer, cut to the operation's sizes, and its inputs."""
    layer = copy.deepcopy(call.layer)
    layer.shrink([Use(dict(operation.sizes), call.geometry)])
    layer.to_empty(device="cpu")
    # Its hook tells a recorder, which is not there now, but takes time.
    layer._forward_pre_hooks.clear()
    for tensor in (*layer.parameters(), *layer.buffers()):
        # Memory as it was found can hold numbers that take longer than others.
        tensor.detach().fill_(1)
    inputs, arguments = layer.example(operation.input, call.geometry)
    return (_WithArguments(layer, arguments) if arguments else layer).eval(), inputs


class _WithArguments(nn.Module):
    """A layer of which every call gets the same arguments."""

    def __init__(self, layer: nn.Module, arguments: Any) -> None:
        super().__init__()
        self.layer = layer
        self.arguments = dict(arguments)

    def forward(self, *inputs: Tensor) -> Any:
        return self.layer(*inputs, **self.arguments)


def _interpolated(grouped: dict[str, list[Operation]], measured: dict[str, float]) -> dict[str, float]:
    found: dict[str, float] = {}
    for pattern, family in grouped.items():
        rest = [one for one in family if str(one) not in measured]
        found |= dict(zip(map(str, rest), Family(pattern, measured).between(rest), strict=True))
    return found


def _checked(name: str, measure: Measure, network: nn.Module, inputs: tuple[Tensor, ...]) -> float:
    """Milliseconds that ``measure`` tells of what is named."""
    try:
        time = measure(network, inputs)
    except ManynetError as error:
        raise LatencyTableError(f"a device must measure all of a table, but not {name!r}: {error}") from None
    if not 0 < time < math.inf:
        raise LatencyTableError(f"milliseconds must be more than 0, but got {time:g} for {name!r}")
    return time
