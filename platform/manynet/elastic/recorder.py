"""Records which modules run, which tensors they touch, with which slices, and their cost.

The recorder lives in a context variable, not on the network: reading an architecture does not change
the network, also when a forward pass raises.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from contextvars import ContextVar, Token
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import torch
from torch import nn

from manynet.elastic.count import Count, largest

_active: ContextVar[Recorder | None] = ContextVar("recorder", default=None)


def recording() -> Recorder | None:
    """The recorder of this context, or None when the network simply runs."""
    return _active.get()


@dataclass(frozen=True)
class Use:
    """One call of an elastic layer: the leading sizes of its tensors, and the geometry it ran at.

    Sizes that depend on soft choices are counts; they are 0 for options that skip the call.

    Attributes:
        sizes: of each parameter and buffer, by its name.
        geometry: parameters of the call besides sizes; extraction needs them.
        input: shape of the input, batch first; None if the layer does not report it, ``()`` without an input.
    """

    sizes: Mapping[str, tuple[Count | int, ...]]
    geometry: Hashable = None
    input: tuple[Count | int, ...] | None = None


@dataclass
class Recorder:
    """Records what runs inside the ``with`` block.

    Args:
        metering: elastic layers report their cost and return empty outputs instead of computing.
        training: what modules of a watched network are told when they ask whether they train.

    Attributes:
        macs: multiply-adds, summed over calls.
        ran: every module that ran, in order, with an indicator of whether it ran: a count inside soft
            choices between operators, else 1.
        uses: the calls of each elastic layer.
        touched: tensors that operations read outside the elastic layer that holds them, with such an indicator, by
            :func:`storage`.
        asks_mode: whether a module asked whether it trains, so that a training pass may use more.
    """

    metering: bool = False
    training: bool = False
    macs: Count | int = 0
    ran: dict[nn.Module, Count | int] = field(default_factory=dict)
    uses: dict[nn.Module, list[Use]] = field(default_factory=dict)
    touched: dict[int, Count | int] = field(default_factory=dict)
    asks_mode: bool = False
    _noted: list[AbstractSet[int]] = field(default_factory=list)
    _token: Token[Recorder | None] | None = None
    _share: Count | int = 1

    def __enter__(self) -> Self:
        self._token = _active.set(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._token is not None:
            _active.reset(self._token)

    def use(self, layer: nn.Module, use: Use, macs: Count | int = 0) -> bool:
        """Record one call; True when the layer should return an empty output."""
        if isinstance(self._share, Count):
            shared = {name: _times(sizes, self._share) for name, sizes in use.sizes.items()}
            use = Use(shared, use.geometry, None if use.input is None else _times(use.input, self._share))
        self.uses.setdefault(layer, []).append(use)
        return self.add(macs)

    def add(self, macs: Count | int) -> bool:
        """Record multiply-adds; True when the result should be empty."""
        self.macs += macs * self._share
        return self.metering

    def entered(self, module: nn.Module) -> None:
        """Record that a module runs."""
        self.ran[module] = largest(self.ran.get(module, 0), self._share)

    def touch(self, place: int) -> None:
        """Record that an operation reads the tensor at ``place``, a :func:`storage`."""
        if not any(place in places for places in self._noted):
            self.touched[place] = largest(self.touched.get(place, 0), self._share)

    @contextmanager
    def inside(self, places: AbstractSet[int]) -> Iterator[None]:
        """In the block runs an elastic layer, which notes itself what it uses of its tensors, at ``places``."""
        self._noted.append(places)
        try:
            yield
        finally:
            self._noted.pop()

    @contextmanager
    def under(self, share: Count) -> Iterator[None]:
        """Multiply recorded sizes and costs in the block by ``share``: 1 where it runs, else 0."""
        before = self._share
        self._share = before * share
        try:
            yield
        finally:
            self._share = before


def storage(tensor: torch.Tensor) -> int:
    """Where a tensor's numbers lie: the same for a tensor, its views and its ``.data``, also on ``meta``; 0 if nowhere."""
    try:
        return int(tensor.untyped_storage()._cdata)
    except NotImplementedError:
        # A sparse tensor has several.
        return 0


def _times(sizes: tuple[Count | int, ...], share: Count) -> tuple[Count | int, ...]:
    return tuple(size * share for size in sizes)
