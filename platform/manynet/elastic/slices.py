"""Gradients of the slices that ran, rather than of whole parameters that are zero elsewhere.

Autograd gives a sliced parameter a gradient of its full size. At NASRec's sizes, filling, clipping and
applying those zeros costs more than the arithmetic of the step.
"""

from __future__ import annotations

from contextvars import ContextVar, Token
from types import TracebackType
from typing import Self

import torch

_active: ContextVar[Slices | None] = ContextVar("slices", default=None)


def slicing() -> Slices | None:
    """The slices of this context, or None when gradients belong to whole parameters."""
    return _active.get()


class Slices:
    """Inside the ``with`` block, every slice of a parameter is a leaf with a gradient of its own."""

    def __init__(self) -> None:
        self._leaves: dict[tuple[int, tuple[int, ...]], tuple[torch.Tensor, torch.Tensor]] = {}
        self._token: Token[Slices | None] | None = None

    def __enter__(self) -> Self:
        self._token = _active.set(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._token is not None:
            _active.reset(self._token)

    def leaf(self, parameter: torch.Tensor, slice_: torch.Tensor) -> torch.Tensor:
        """A leaf over the memory of ``slice_``, a leading slice of ``parameter``; the same one all step long."""
        key = (id(parameter), tuple(slice_.shape))
        if key not in self._leaves:
            self._leaves[key] = (parameter, slice_.detach().requires_grad_())
        return self._leaves[key][1]

    def gradients(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Each parameter with the gradient of each of its slices that got one."""
        return [(parameter, leaf.grad) for parameter, leaf in self._leaves.values() if leaf.grad is not None]
