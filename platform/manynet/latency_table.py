"""Latency as a sum over operations, looked up in a table (FBNet, arXiv 1812.03443; ProxylessNAS, 1812.00332).

A table is one JSON file that people can check: milliseconds by the name of an operation, such as
``Conv2d stride 2x2 weight 16x3x3x3 on 1x3x224x224``, or, as published tables have it, by the option of a choice, such
as ``block3.operator=skip``. For a space either becomes a count over its choices, which is differentiated as
multiply-adds are.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from scipy.interpolate import RBFInterpolator
from torch import nn

from manynet.elastic.count import Count, Keys, product
from manynet.elastic.layer import Elastic
from manynet.elastic.recorder import Use
from manynet.elastic.soft import Soft
from manynet.errors import ManynetError
from manynet.space import Architecture, SearchSpace
from manynet.storage import read_bytes, write_bytes
from manynet.subnet import extract

Milliseconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Timer = Callable[[Callable[[], None]], float]
"""Milliseconds of one run."""


class LatencyTableError(ManynetError):
    """A table of latency is damaged, or cannot serve a space."""


class Operation(NamedTuple):
    """One call of an elastic layer; two that are equal take equally long.

    Attributes:
        form: kind of the layer, and what no size tells; see :meth:`manynet.elastic.Elastic.form`.
        sizes: of each parameter and buffer, by its name.
        input: shape of the input, batch first.
    """

    form: str
    sizes: tuple[tuple[str, tuple[int, ...]], ...]
    input: tuple[int, ...]

    def __str__(self) -> str:
        tensors = " ".join(f"{name} {'x'.join(map(str, dims))}" for name, dims in self.sizes)
        return f"{self.form} {tensors} on {'x'.join(map(str, self.input))}"


class Call(NamedTuple):
    """A call of an elastic layer, as undecided choices leave it.

    Attributes:
        layer: on ``meta``.
        keys: of the choices it depends on.
        operations: the different ones that it can be; None is none, where choices leave it out.
        which: index of the operation under each combination of the choices' options, an axis a key.
    """

    layer: Elastic
    keys: Keys
    operations: Sequence[Operation | None]
    which: NDArray[np.intp]


class LatencyTable(BaseModel):
    """Milliseconds of operations on one device.

    Attributes:
        device: it was measured on.
        tool: and settings it was measured with.
        unit: of all times.
        rows: whether times are by the names of operations, or by options of choices (``key=option``).
        measured: times that were measured.
        interpolated: times that were interpolated between those.
        network: time that belongs to no row, once a network.
        call: time that comes with each operation, such as that of an activation after it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    device: str = Field(min_length=1)
    tool: str = Field(min_length=1)
    unit: Literal["ms"]
    rows: Literal["operations", "choices"]
    measured: dict[str, Milliseconds] = Field(min_length=1)
    interpolated: dict[str, Milliseconds] = {}
    network: Milliseconds = 0.0
    call: Milliseconds = 0.0

    @model_validator(mode="after")
    def _operations_take_time(self) -> LatencyTable:
        free = [name for name, time in {**self.interpolated, **self.measured}.items() if not time]
        # An option, such as a skip, may take none.
        if self.rows == "operations" and free:
            raise ValueError(f"an operation must take more than 0 ms, but got 0 for {free[0]!r}")
        return self

    @classmethod
    def read(cls, address: str | Path) -> LatencyTable:
        """Read a table from a path or an address that pyarrow opens.

        Raises:
            LatencyTableError: when it is not a whole and valid table.
            manynet.storage.StorageError: when it cannot be read.
        """
        try:
            return cls.model_validate_json(read_bytes(address))
        except ValidationError as error:
            fault = error.errors()[0]
            place = ".".join(map(str, fault["loc"])) or "it"
            raise LatencyTableError(
                f"{address} must be a table of latency, but {place} is wrong: {fault['msg']}, "
                f"got {str(fault['input'])[:80]!r}"
            ) from None

    def write(self, address: str | Path) -> None:
        """Write the table whole, or not at all.

        Raises:
            manynet.storage.StorageError: when it cannot be written.
        """
        write_bytes(address, self.model_dump_json(indent=1).encode())

    def milliseconds(self, space: SearchSpace, arch: Architecture) -> float:
        """Time of a decided architecture at one example.

        Raises:
            LatencyTableError: when the table lacks a part of it.
        """
        return self.count(space, arch).at({})

    def count(self, space: SearchSpace, arch: Architecture) -> Count:
        """Milliseconds at one example, for every combination of an architecture's undecided choices.

        Raises:
            LatencyTableError: when the table lacks a part of it.
        """
        times = {**self.interpolated, **self.measured}
        terms = self._of_choices if self.rows == "choices" else self._of_calls
        total = Count({(): np.array(self.network)})
        for keys, values in terms(times, space, arch):
            total += Count({keys: values})
        return total

    def _of_calls(
        self, times: Mapping[str, float], space: SearchSpace, arch: Architecture
    ) -> Iterator[tuple[Keys, Any]]:
        for call in calls(space, arch):
            found = [self._time(times, str(one)) + self.call if one else 0.0 for one in call.operations]
            yield call.keys, np.array(found)[call.which]

    def _of_choices(
        self, times: Mapping[str, float], space: SearchSpace, arch: Architecture
    ) -> Iterator[tuple[Keys, Any]]:
        for key in dict.fromkeys(name.partition("=")[0] for name in times):
            if key not in space.domains:
                raise LatencyTableError(
                    f"rows of a table for {space.name!r} must be of its choices, but got {key!r}"
                )
            choice = arch.get(key)
            if isinstance(choice, Soft):
                yield (key,), np.array([self._time(times, f"{key}={option}") for option in choice.values])
            elif key in arch:
                yield (), np.array(self._time(times, f"{key}={choice}"))

    def _time(self, times: Mapping[str, float], name: str) -> float:
        if name not in times:
            raise LatencyTableError(
                f"the table of {self.device} must hold all that the space runs, but lacks {name!r}"
            )
        return times[name]


def calls(space: SearchSpace, arch: Architecture) -> Iterator[Call]:
    """Every call of an elastic layer at one example; choices may be undecided.

    Raises:
        LatencyTableError: for a layer that does not note the shape of its input.
    """
    for layer, uses in space.calls(arch).items():
        assert isinstance(layer, Elastic)
        for use in uses:
            if use.input is None:
                raise LatencyTableError(
                    f"layers must note the shape of their input to be in a table, but got {layer.form()}"
                )
            yield _call(layer, use, use.input)


def _call(layer: Elastic, use: Use, shape: Sequence[Count | int]) -> Call:
    dims = [*shape, *(size for sizes in use.sizes.values() for size in sizes)]
    # All of them over the options of every choice that any depends on.
    every = product(*dims)
    joint = [(Count({}) + dim).joined(every) for dim in dims]
    values = np.stack([array for _, array, _ in joint], -1).astype(np.int64)
    rows, which = np.unique(values.reshape(-1, len(dims)), axis=0, return_inverse=True)
    form = layer.form()
    # Where choices leave a call out all its sizes are 0.
    operations = [_operation(form, use, row, len(shape)) if row[0] else None for row in rows.tolist()]
    return Call(layer, joint[0][0], operations, which.reshape(values.shape[:-1]))


def _operation(form: str, use: Use, row: Sequence[int], start: int) -> Operation:
    sizes, place = [], start
    for name, dims in use.sizes.items():
        sizes.append((name, tuple(row[place : place + len(dims)])))
        place += len(dims)
    return Operation(form, tuple(sizes), tuple(row[:start]))


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
