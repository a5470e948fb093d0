"""Times the operations of a space, for a table of latency."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.interpolate import RBFInterpolator
from torch import nn

from manynet.elastic.layer import Elastic
from manynet.elastic.recorder import Use
from manynet.latency_table import LatencyTable
from manynet.operations import Operation, calls
from manynet.space import SearchSpace
from manynet.subnet import extract

Timer = Callable[[Callable[[], None]], float]
"""Milliseconds of one run."""


def measure_table(
    space: SearchSpace, timer: Timer, device: str, tool: str, points: int = 12, subnets: int = 20
) -> LatencyTable:
    """Time every operation that a space's undecided choices can lead to, here, on one thread, at one example.

    Operations that differ in channels alone are a family. Of a larger family than ``points`` so many are timed, far
    from each other, and the others are interpolated between them. What runs outside elastic layers (activations,
    pooling, sums) is not seen: it is taken to cost the same with each call, which is fitted to whole subnets.

    Args:
        space: whose keys that must be decided are those of its largest architecture.
        timer: of a run, such as ``lambda run: time_run(run).milliseconds`` of ``manynet.devices.timing``.
        device: that this is, for people.
        tool: that ``timer`` is, for people.
        points: most operations that are timed of a family, at least 2.
        subnets: that are timed whole, random ones of seeds from 0; with none, calls cost nothing besides.
    """
    weights = {key: torch.full([len(options)], 1 / len(options)) for key, options in space.soft.items()}
    undecided = space.soften(space.largest, weights)
    layers = {one: call.layer for call in calls(space, undecided) for one in call.operations if one}
    with _one_thread():
        measured, interpolated = _timed(layers, timer, points)
        table = LatencyTable(
            device=device,
            tool=tool,
            unit="ms",
            rows="operations",
            measured=measured,
            interpolated=interpolated,
        )
        besides = _besides(table, space, timer, subnets) if subnets else 0.0
    return table.model_copy(update={"call": besides})


def _timed(
    layers: Mapping[Operation, Elastic], timer: Timer, points: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Times of all operations, by name: those that were measured, and those between."""
    measured: dict[str, float] = {}
    interpolated: dict[str, float] = {}
    for family in _families(layers):
        timed = _apart(family, points)
        times = [timer(_alone(layers[one], one)) for one in timed]
        measured |= dict(zip(map(str, timed), times, strict=True))
        rest = [one for one in family if str(one) not in measured]
        interpolated |= dict(zip(map(str, rest), _between(timed, times, rest), strict=True))
    return measured, interpolated


def _besides(table: LatencyTable, space: SearchSpace, timer: Timer, subnets: int) -> float:
    """What whole subnets take more than their operations, for each of these: the median, which outliers leave."""
    network = space.build().eval()
    found = []
    for arch in map(space.sample, range(subnets)):
        example = space.example(arch, 1)
        whole = timer(_inferring(extract(network, arch, example), example))
        number = len(list(calls(space, arch)))
        found.append((whole - table.milliseconds(space, arch)) / number)
    return max(0.0, median(found))


def _families(operations: Iterable[Operation]) -> list[list[Operation]]:
    """Operations that differ in channels alone: the first two sizes of tensors and input."""
    families: dict[Any, list[Operation]] = {}
    for one in sorted(operations):
        tensors = tuple((name, dims[2:]) for name, dims in one.sizes)
        families.setdefault((one.form, tensors, one.input[2:]), []).append(one)
    return list(families.values())


def _apart(family: Sequence[Operation], count: int) -> list[Operation]:
    """At most ``count`` of a family: the first, then again and again the one that is farthest from all so far."""
    places = _places(family)
    picked, nearest = [0], np.linalg.norm(places - places[0], axis=1)
    while len(picked) < min(count, len(family)):
        picked.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, np.linalg.norm(places - places[picked[-1]], axis=1))
    return [family[place] for place in picked]


def _between(timed: Sequence[Operation], times: Sequence[float], rest: Sequence[Operation]) -> list[float]:
    """Times of the rest of a family, by linear radial functions: straight lines between two points."""
    if not rest:
        return []
    found = RBFInterpolator(_places(timed), np.array(times), kernel="linear")(_places(rest))
    return [float(time) for time in np.clip(found, min(times), max(times))]


def _places(family: Sequence[Operation]) -> NDArray[np.float64]:
    """Channels of the operations of a family, ``(operations, sizes)``."""
    return np.array(
        [[n for dims in (one.input, *dict(one.sizes).values()) for n in dims[:2]] for one in family], float
    )


def _alone(layer: Elastic, operation: Operation) -> Callable[[], None]:
    """A call of the layer, cut to the operation's sizes."""
    part = copy.deepcopy(layer)
    part.shrink([Use(dict(operation.sizes))])
    part.to_empty(device="cpu")
    for tensor in (*part.parameters(), *part.buffers()):
        # Memory as it was found can hold numbers that take longer than others.
        tensor.detach().fill_(1)
    return _inferring(part.eval(), (torch.randn(operation.input),))


def _inferring(network: nn.Module, inputs: tuple[torch.Tensor, ...]) -> Callable[[], None]:
    @torch.inference_mode()
    def run() -> None:
        network(*inputs)

    return run


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
