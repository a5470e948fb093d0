"""Sees every operation of a forward pass: which tensors it reads, and the multiply-adds outside elastic layers."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from manynet.elastic.recorder import Recorder, storage

_aten = torch.ops.aten
# PyTorch infers the shapes of these operators, and of new_empty, in Python: ten times as long as an empty tensor takes.
_SHAPE_KEEPING = frozenset(
    {
        _aten.add.Tensor,
        _aten.mul.Tensor,
        _aten.gelu.default,
        _aten.relu.default,
        _aten.silu.default,
        _aten.hardswish.default,
        _aten.sigmoid.default,
    }
)


class Operations(TorchDispatchMode):
    """Tells a recorder of every operation in the ``with`` block.

    A metering recorder gets the multiply-adds of matrix products and convolutions.

    Args:
        recorder: is told.
        places: of the tensors whose reading is told, as :func:`manynet.elastic.recorder.storage` gives them.
    """

    def __init__(self, recorder: Recorder, places: Collection[int] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.recorder = recorder
        self.places = places

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # PyTorch would import its compiler, which takes longer than all of Manynet, to keep it away from this class.
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if self.places:
            self._touch(args if not kwargs else (*args, *kwargs.values()))
        if not self.recorder.metering:
            return func(*args, **(kwargs or {}))
        if func in _SHAPE_KEEPING and all(_same_shape(args[0], other) for other in args[1:]):
            return _empty(args[0], args[0].shape)
        if func is _aten.new_empty.default and not any((kwargs or {}).values()):
            return _empty(*args)
        if func is _aten.cat.default and (joined := _joined(*args)) is not None:
            return joined
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.recorder.add(int(formula(*args, **(kwargs or {}), out_val=out)) // 2)
        return out

    def _touch(self, arguments: Sequence[Any]) -> None:
        for tensor in _tensors(arguments):
            place = storage(tensor)
            # A view was made by an operation that was told, or by an elastic layer that noted its slice.
            if place in self.places and not tensor._is_view():
                self.recorder.touch(place)


def _tensors(arguments: Sequence[Any]) -> Iterator[torch.Tensor]:
    for argument in arguments:
        if isinstance(argument, torch.Tensor):
            yield argument
        elif isinstance(argument, list | tuple):
            yield from _tensors(argument)


def _joined(tensors: Sequence[torch.Tensor], dim: int = 0) -> torch.Tensor | None:
    """An empty tensor as large as ``tensors`` end to end; None where PyTorch should judge whether they fit.

    PyTorch's own kernel for ``meta`` is in Python, and imports its compiler.
    """
    first, *others = (list(tensor.shape) for tensor in tensors)
    sides = [shape[:dim] + shape[dim:][1:] for shape in (first, *others)]
    kinds = {(tensor.dtype, tensor.device) for tensor in tensors}
    if not -len(first) <= dim < len(first) or any(side != sides[0] for side in sides) or len(kinds) > 1:
        return None
    first[dim] += sum(shape[dim] for shape in others)
    return _empty(tensors[0], first)


def _empty(like: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    return torch.empty(shape, dtype=like.dtype, device=like.device)


def _same_shape(x: torch.Tensor, other: Any) -> bool:
    if isinstance(other, int | float):
        return x.is_floating_point()
    return isinstance(other, torch.Tensor) and other.shape == x.shape and other.dtype == x.dtype
