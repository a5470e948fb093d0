"""Latency as a sum over operations, looked up in a table (FBNet, arXiv 1812.03443; ProxylessNAS, 1812.00332).

A table is one JSON file that people can check: milliseconds by the name of an operation, such as
``Conv2d stride 2x2 weight 16x3x3x3 on 1x3x224x224``, or, as published tables have it, by the option of a choice, such
as ``block3.operator=skip``. For a space either becomes a count over its choices, which is differentiated as
multiply-adds are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from manynet.elastic.count import Count, Keys
from manynet.elastic.soft import Soft
from manynet.operations import LatencyTableError, calls
from manynet.space import Architecture, SearchSpace
from manynet.storage import read_bytes, write_bytes

Milliseconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


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
