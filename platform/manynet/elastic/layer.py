"""Base of elastic layers: weights are stored at the largest size, and calls use leading slices."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from functools import lru_cache
from numbers import Integral
from typing import Any

import torch
from torch import nn

from manynet.elastic.count import Count, largest
from manynet.elastic.recorder import Use, recording
from manynet.elastic.slices import slicing
from manynet.elastic.soft import Soft
from manynet.errors import ManynetError


class ChoiceError(ManynetError, ValueError):
    """A layer was asked for a size it does not have."""


Size = int | Soft
"""A decided size, or a soft choice of sizes; layers then run at its largest option."""


def chosen(choice: Size | None, largest: int, name: str) -> int:
    """The size to run at: a decided size, the largest for None, or a soft choice's largest option.

    Raises:
        ChoiceError: when it is not an integer from 1 to ``largest``.
    """
    if choice is None:
        return largest
    if isinstance(choice, Soft):
        return _largest_option(choice.values, largest, name)
    if isinstance(choice, bool) or not isinstance(choice, Integral) or not 1 <= choice <= largest:
        raise ChoiceError(f"{name} must be an integer from 1 to {largest}, but got {choice!r}")
    return int(choice)


@lru_cache(maxsize=4096)
def _largest_option(options: tuple[int, ...], largest: int, name: str) -> int:
    return max(chosen(option, largest, name) for option in options)


def input_size(choice: Size | None, x: torch.Tensor, dim: int, largest: int, name: str) -> int:
    """The chosen size of an input's dimension, checked against the input.

    Raises:
        ChoiceError: when the two differ, or the layer is too narrow.
    """
    size = chosen(choice if choice is not None else int(x.shape[dim]), largest, name)
    if x.shape[dim] != size:
        raise ChoiceError(
            f"{name} must be the input's size, but got {size} for an input of shape {tuple(x.shape)}"
        )
    return size


def counted(choice: Size | None, size: int) -> Count | int:
    """The size as counted for cost: itself, or, while recording, a soft choice's count over options."""
    return choice.count if isinstance(choice, Soft) and recording() is not None else size


def leading(tensor: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
    """The leading ``sizes`` of a tensor's first dimensions: a view, or the tensor itself when nothing is cut."""
    part = tensor
    for dim, size in enumerate(sizes):
        if part.shape[dim] != size:
            part = part.narrow(dim, 0, size)
    slices = slicing()
    if slices is None or part is tensor or not tensor.requires_grad or not tensor.is_leaf:
        return part
    return slices.leaf(tensor, part)


class Elastic(nn.Module):
    """A layer whose calls use leading slices of its parameters and buffers.

    Subclasses record each call with :meth:`note`. A layer that does more than slice its tensors (resampling a
    kernel) overrides :meth:`narrowed`. A layer whose calls depend on more than sizes (a stride) overrides
    :meth:`form`, and :meth:`example` if that is an argument of the call.
    """

    def note(
        self,
        sizes: Mapping[str, tuple[Count | int, ...]],
        macs: Count | int = 0,
        geometry: Hashable = None,
        input: tuple[Count | int, ...] | None = None,
    ) -> bool:
        """Record this call with the active recorder.

        Args:
            sizes: leading sizes used of each parameter and buffer, by its name.
            macs: multiply-adds of the call.
            geometry: parameters of the call besides sizes, such as a stride.
            input: shape of the input, required for latency tables. ``()`` means no input: a constant tensor of
                the subnet, which takes no time.

        Returns:
            True when the call should return an empty output of the right shape.
        """
        recorder = recording()
        return recorder is not None and recorder.use(self, Use(sizes, geometry, input), macs)

    def form(self, geometry: Hashable = None) -> str:
        """Description of a call for latency tables, without sizes: the layer's kind, and its geometry."""
        return type(self).__name__

    def example(
        self, shape: tuple[int, ...], geometry: Hashable = None
    ) -> tuple[tuple[torch.Tensor, ...], Mapping[str, Any]]:
        """Random inputs and keyword arguments of a call with this input shape and geometry.

        The layer must be cut to the slices that the call uses.
        """
        return (torch.randn(shape),), {}

    def narrowed(self, uses: Sequence[Use]) -> Mapping[str, torch.Tensor]:
        """Parameters and buffers cut to the union of the slices of ``uses``, by name."""
        return {name: leading(self.get_tensor(name), sizes) for name, sizes in decided(uses).items()}

    def get_tensor(self, name: str) -> torch.Tensor:
        """A direct parameter or buffer."""
        tensor = getattr(self, name)
        assert isinstance(tensor, torch.Tensor)
        return tensor

    def resized(self) -> None:
        """Update attributes that repeat the tensors' sizes."""


def union(uses: Sequence[Use]) -> dict[str, tuple[Count | int, ...]]:
    """The largest leading sizes that any call used of each tensor."""
    sizes: dict[str, tuple[Count | int, ...]] = {}
    for use in uses:
        for name, used in use.sizes.items():
            sizes[name] = tuple(map(largest, used, sizes.get(name, used)))
    return sizes


def decided(uses: Sequence[Use]) -> dict[str, tuple[int, ...]]:
    """The union of leading sizes of calls without soft choices.

    Raises:
        ChoiceError: if a size depends on a soft choice.
    """
    sizes: dict[str, tuple[int, ...]] = {}
    for name, dims in union(uses).items():
        if any(isinstance(size, Count) for size in dims):
            raise ChoiceError("a subnet has one option of each choice, but got a soft one")
        sizes[name] = tuple(int(size) for size in dims)  # type: ignore[arg-type]
    return sizes
