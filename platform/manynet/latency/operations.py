"""Lists the operations of a space: calls of elastic layers, for each combination of undecided choices."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from manynet.elastic.count import Count, Keys, product
from manynet.elastic.layer import Elastic
from manynet.elastic.recorder import Use
from manynet.errors import ManynetError
from manynet.space.domains import extremes
from manynet.space.search_space import Architecture, SearchSpace


class LatencyTableError(ManynetError):
    """A latency table is invalid, or does not cover a space."""


class Operation(NamedTuple):
    """One call of an elastic layer; equal operations take equally long.

    Attributes:
        form: kind of the layer, and settings that are not sizes; see :meth:`manynet.elastic.Elastic.form`.
        sizes: of each parameter and buffer, by its name.
        input: shape of the input, batch first.
    """

    form: str
    sizes: tuple[tuple[str, tuple[int, ...]], ...]
    input: tuple[int, ...]

    def __str__(self) -> str:
        tensors = " ".join(f"{name} {'x'.join(map(str, dims))}" for name, dims in self.sizes)
        return " ".join(filter(None, (self.form, tensors, "on", "x".join(map(str, self.input)))))

    @property
    def family(self) -> str:
        """A regular expression for the names of operations that differ in free sizes alone; a group each.

        All sizes are free but the sides of kernels and images, for which runtimes may pick other algorithms.
        """
        return self._pattern(2)

    @property
    def extended_family(self) -> str:
        """As `family`, with the sides of images free as well."""
        return self._pattern(4)

    def _pattern(self, free: int) -> str:
        tensors = [f"{name} {_sizes(dims, 2)}" for name, dims in self.sizes]
        return " ".join([re.escape(self.form), *tensors, "on", _sizes(self.input, free)])


def _sizes(dims: Sequence[int], free: int) -> str:
    """A regular expression for sizes; of four, only the first ``free`` may have any value."""
    fixed = dims[free:] if len(dims) == 4 else ()
    return "x".join([r"(\d+)"] * (len(dims) - len(fixed)) + [str(size) for size in fixed])


class Call(NamedTuple):
    """A call of an elastic layer under undecided choices.

    Attributes:
        layer: on ``meta``.
        geometry: what the layer's calls depend on besides sizes.
        keys: of choices that the call depends on.
        operations: the distinct ones it can be; None where choices omit it.
        which: index of the operation under each combination of the choices' options, an axis a key.
    """

    layer: Elastic
    geometry: Hashable
    keys: Keys
    operations: Sequence[Operation | None]
    which: NDArray[np.intp]


def calls(space: SearchSpace, arch: Architecture) -> Iterator[Call]:
    """Every call of an elastic layer at batch 1; choices may be undecided.

    Calls without an input are omitted: a subnet has their tensors precomputed.

    Raises:
        LatencyTableError: for a layer that does not record the shape of its input.
    """
    for layer, uses in space.calls(arch).items():
        assert isinstance(layer, Elastic)
        for use in uses:
            if use.input is None:
                raise LatencyTableError(
                    f"layers must note the shape of their input to be in a table, but got {type(layer).__name__}"
                )
            if use.input:
                yield _call(layer, use, use.input)


def every_operation(space: SearchSpace, samples: int = 200) -> dict[Operation, Call]:
    """The operations of a space, each with a call that can be it.

    Complete if every choice may stay undecided. Choices that must be decided are sampled: the largest and the
    smallest architecture, both with each other option of each key, and ``samples`` random ones of seeds from 0.

    Raises:
        LatencyTableError: for a layer that does not record the shape of its input.
    """
    weights = {key: torch.full([len(options)], 1 / len(options)) for key, options in space.soft.items()}
    calls_by_operation: dict[Operation, Call] = {}
    visited = set()
    for arch in _sampled(space, samples):
        decided = frozenset((key, value) for key, value in arch.items() if key not in space.soft)
        if decided in visited:
            continue
        visited.add(decided)
        for call in calls(space, space.soften(arch, weights)):
            calls_by_operation |= {operation: call for operation in call.operations if operation}
    return calls_by_operation


def _sampled(space: SearchSpace, samples: int) -> Iterator[Architecture]:
    decided = [key for key in space.domains if key not in space.soft]
    for arch in (space.largest, space.smallest):
        yield arch
        whole = {key: arch.get(key, extremes(domain)[0]) for key, domain in space.domains.items()}
        for key in decided:
            for option in extremes(space.domains[key]):
                yield space.canonical({**whole, key: option})
    # They are all the same where nothing must be decided.
    yield from map(space.sample, range(samples if decided else 0))


def _call(layer: Elastic, use: Use, shape: Sequence[Count | int]) -> Call:
    dims = [*shape, *(size for sizes in use.sizes.values() for size in sizes)]
    form = layer.form(use.geometry)
    if not any(isinstance(dim, Count) for dim in dims):
        decided = _operation(form, use, dims, len(shape))  # type: ignore[arg-type]
        return Call(layer, use.geometry, (), [decided], np.array(0))
    # Broadcasts all sizes over the options of every choice that any of them depends on.
    every = product(*dims)
    joint = [(Count({}) + dim).joined(every) for dim in dims]
    values = np.stack([array for _, array, _ in joint], -1).astype(np.int64)
    rows, which = np.unique(values.reshape(-1, len(dims)), axis=0, return_inverse=True)
    # All sizes of an omitted call are 0.
    operations = [_operation(form, use, row, len(shape)) if row[0] else None for row in rows.tolist()]
    return Call(layer, use.geometry, joint[0][0], operations, which.reshape(values.shape[:-1]))


def _operation(form: str, use: Use, row: Sequence[int], start: int) -> Operation:
    sizes, place = [], start
    for name, dims in use.sizes.items():
        sizes.append((name, tuple(row[place : place + len(dims)])))
        place += len(dims)
    return Operation(form, tuple(sizes), tuple(row[:start]))
