"""Latency as a sum over operations, looked up in a table (FBNet, arXiv 1812.03443; ProxylessNAS, 1812.00332).

A table is one readable JSON file: milliseconds of one example by the name of an operation, such as
``Conv2d stride 2x2 weight 16x3x3x3 on 1x3x224x224``, or, as published tables have it, by the option of a choice, such
as ``block3.operator=skip``. For a space either becomes a count over its choices, differentiable like multiply-adds.

An operation missing in the table is interpolated on lookup, if it lies between measured ones of its family
(:mod:`manynet.latency.operation_families`); extrapolation is an error.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from ray.tune.search.sample import Categorical

from manynet.elastic.count import Count, Keys
from manynet.elastic.soft import Soft
from manynet.errors import InvalidValue
from manynet.latency.operation_families import Family
from manynet.latency.operations import LatencyTableError, Operation, calls
from manynet.space.search_space import Architecture, SearchSpace
from manynet.storage import read_bytes, write_bytes

Milliseconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class LatencyTable(BaseModel):
    """Milliseconds of operations on one device.

    Attributes:
        device: that the times were measured on.
        tool: deployment tool and its settings.
        unit: of all times.
        rows: whether keys of times are operations, or options of choices (``key=option``).
        measured: measured times.
        interpolated: times interpolated between the measured ones.
        network: constant time of a network.
        call: constant time of each operation, such as that of an activation after it; below 0 where part of a
            single operation's run is an overhead that a network has only once.
        factor: ratio of an operation's time inside a network to its time alone.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    device: str = Field(min_length=1)
    tool: str = Field(min_length=1)
    unit: Literal["ms"]
    rows: Literal["operations", "choices"]
    measured: dict[str, Milliseconds] = Field(min_length=1)
    interpolated: dict[str, Milliseconds] = {}
    network: Milliseconds = 0.0
    call: float = Field(default=0.0, allow_inf_nan=False)
    factor: float = Field(default=1.0, gt=0, allow_inf_nan=False)

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
            LatencyTableError: when it is not a valid table.
            manynet.storage.StorageError: when it cannot be read.
        """
        try:
            return cls.model_validate_json(read_bytes(address))
        except ValidationError as error:
            invalid = InvalidValue.first(error)
            raise LatencyTableError(
                f"{address} must be a table of latency, but {invalid.key or 'it'} is wrong: {invalid.rule}, "
                f"got {str(invalid.value)[:80]!r}"
            ) from None

    def write(self, address: str | Path) -> None:
        """Write the table atomically.

        Raises:
            manynet.storage.StorageError: when it cannot be written.
        """
        write_bytes(address, self.model_dump_json(indent=1).encode())

    def milliseconds(self, space: SearchSpace, arch: Architecture) -> float:
        """Latency of a fully decided architecture at batch 1.

        Raises:
            LatencyTableError: when the table lacks a part of it.
        """
        return self.count(space, arch).at({})

    def count(self, space: SearchSpace, arch: Architecture) -> Count:
        """Milliseconds at batch 1, for every combination of an architecture's undecided choices.

        Raises:
            LatencyTableError: when the table lacks a part of it.
        """
        terms = self._of_choices if self.rows == "choices" else self._of_calls
        total = Count({(): np.array(self.network)})
        for keys, values in terms(space, arch):
            total += Count({keys: values})
        return total

    def alone(self, operation: Operation) -> float:
        """Time of an operation that runs alone; interpolated now if it has no row.

        Raises:
            LatencyTableError: when it is outside the measured range.
        """
        name = str(operation)
        if name in self._times:
            return self._times[name]
        for pattern in (operation.family, operation.extended_family):
            if pattern not in self._families:
                self._families[pattern] = Family(pattern, self.measured)
            if self._families[pattern].spans(operation):
                return self._families[pattern].interpolate([operation])[0]
        raise self._missing(name)

    def check(self, space: SearchSpace) -> None:
        """Check that the table covers a space, before anything expensive starts.

        Raises:
            LatencyTableError: when it holds rows of other choices or options, or lacks a part of the space's
                largest or smallest architecture.
        """
        if self.rows == "choices":
            self._check_choices(space)
        for arch in (space.largest, space.smallest):
            self.milliseconds(space, arch)

    def __copy__(self) -> LatencyTable:
        # Without caches: a copy with other times must not keep them.
        return type(self).model_construct(**dict(self))

    @cached_property
    def _times(self) -> dict[str, float]:
        return {**self.interpolated, **self.measured}

    @cached_property
    def _times_inside(self) -> dict[Operation, float]:
        """Cache of operations' times inside a network."""
        return {}

    @cached_property
    def _families(self) -> dict[str, Family]:
        return {}

    def _of_calls(self, space: SearchSpace, arch: Architecture) -> Iterator[tuple[Keys, Any]]:
        for call in calls(space, arch):
            times = np.array([self._inside(operation) if operation else 0.0 for operation in call.operations])
            yield call.keys, times[call.which]

    def _inside(self, operation: Operation) -> float:
        """Time of an operation inside a network."""
        if operation not in self._times_inside:
            self._times_inside[operation] = max(0.0, self.factor * self.alone(operation) + self.call)
        return self._times_inside[operation]

    def _of_choices(self, space: SearchSpace, arch: Architecture) -> Iterator[tuple[Keys, Any]]:
        for key in dict.fromkeys(name.partition("=")[0] for name in self._times):
            if key not in space.domains:
                raise self._unknown_row(space, key)
            choice = arch.get(key)
            if isinstance(choice, Soft):
                yield (key,), np.array([self._option(f"{key}={option}") for option in choice.values])
            elif key in arch:
                yield (), np.array(self._option(f"{key}={choice}"))

    def _option(self, name: str) -> float:
        if name not in self._times:
            raise self._missing(name)
        return self._times[name]

    def _check_choices(self, space: SearchSpace) -> None:
        listed = {key: d.categories for key, d in space.domains.items() if isinstance(d, Categorical)}
        rows = {f"{key}={option}": key for key, options in listed.items() for option in options}
        for name in self._times:
            key = name.partition("=")[0]
            if key not in space.domains or (key in listed and name not in rows):
                raise self._unknown_row(space, name)
        tabled = {name.partition("=")[0] for name in self._times}
        for name, key in rows.items():
            if key in tabled:
                self._option(name)

    def _unknown_row(self, space: SearchSpace, row: str) -> LatencyTableError:
        return LatencyTableError(
            f"rows of a table for {space.name!r} must be of its choices, but got {row!r}"
        )

    def _missing(self, name: str) -> LatencyTableError:
        return LatencyTableError(
            f"the table of {self.device} must hold all that the space runs, but lacks {name!r}"
        )
