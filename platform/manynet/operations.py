"""The operations of a space: every call of an elastic layer, for each combination of undecided choices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from manynet.elastic.count import Count, Keys, product
from manynet.elastic.layer import Elastic
from manynet.elastic.recorder import Use
from manynet.errors import ManynetError
from manynet.space import Architecture, SearchSpace


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
