"""Gradients of used slices only, instead of zero-padded gradients of whole parameters.

Autograd gives a sliced parameter a gradient of its full size. At NASRec's sizes, filling, clipping and
applying the zeros costs more than the arithmetic of the step.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

_active: ContextVar[Slices | None] = ContextVar("slices", default=None)


def slicing() -> Slices | None:
    """The slices of this context, or None when gradients belong to whole parameters."""
    return _active.get()


@contextmanager
def separate_slices() -> Iterator[Slices]:
    """Inside the ``with`` block, every slice of a parameter is a leaf with a gradient of its own."""
    slices = Slices()
    token = _active.set(slices)
    try:
        yield slices
    finally:
        _active.reset(token)


class Slices:
    """Leaf tensors that stand for slices of parameters."""

    def __init__(self) -> None:
        self._leaves: dict[tuple[int, tuple[int, ...]], tuple[torch.Tensor, torch.Tensor]] = {}

    def leaf(self, parameter: torch.Tensor, slice_: torch.Tensor) -> torch.Tensor:
        """A leaf tensor on the memory of ``slice_``, a leading slice of ``parameter``; cached for the step."""
        key = (id(parameter), tuple(slice_.shape))
        if key not in self._leaves:
            self._leaves[key] = (parameter, slice_.detach().requires_grad_())
        return self._leaves[key][1]

    def gradients(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Each parameter with the gradient of each of its slices that got one."""
        return [(parameter, leaf.grad) for parameter, leaf in self._leaves.values() if leaf.grad is not None]
