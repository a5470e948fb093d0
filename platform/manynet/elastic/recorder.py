"""Records which modules run, with which slices, and their cost; used for costing and extraction.

The recorder lives in a context variable, not on the network: reading an architecture does not change
the network, also when a forward pass raises.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar, Token
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from types import TracebackType
from typing import Any, Self

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from torch.utils.hooks import RemovableHandle

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
    """Records the modules that run inside the ``with`` block.

    Args:
        metering: elastic layers report their cost and return empty outputs instead of computing.

    Attributes:
        macs: multiply-adds reported by elastic layers, summed over calls.
        ran: every module that ran, in order, with an indicator of whether it ran: a count inside soft
            choices between operators, else 1.
        uses: the calls of each elastic layer.
    """

    metering: bool = False
    macs: Count | int = 0
    ran: dict[nn.Module, Count | int] = field(default_factory=dict)
    uses: dict[nn.Module, list[Use]] = field(default_factory=dict)
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

    @contextmanager
    def under(self, share: Count) -> Iterator[None]:
        """Multiply recorded sizes and costs in the block by ``share``: 1 where it runs, else 0."""
        before = self._share
        self._share = before * share
        try:
            yield
        finally:
            self._share = before


def _times(sizes: tuple[Count | int, ...], share: Count) -> tuple[Count | int, ...]:
    return tuple(size * share for size in sizes)


def watch(network: nn.Module) -> list[RemovableHandle]:
    """Hook every module of ``network`` to report its calls to the active recorder.

    Only for a private copy of a network: hooks stay until their handles are removed.
    """
    return [module.register_forward_pre_hook(_note) for module in network.modules()]


def _note(module: nn.Module, inputs: tuple[Any, ...]) -> None:
    recorder = recording()
    if recorder is not None:
        recorder.entered(module)


_aten = torch.ops.aten
# PyTorch infers the shapes of these operators in Python, which takes ten times as long as an empty tensor.
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


class PlainOperations(TorchDispatchMode):
    """Counts the multiply-adds of matrix products and convolutions that run outside elastic layers."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.macs = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # PyTorch would import its compiler, which takes longer than all of Manynet, to keep it away from this class.
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _SHAPE_KEEPING and all(_same_shape(args[0], other) for other in args[1:]):
            return args[0].new_empty(args[0].shape)
        if func is _aten.cat.default and (joined := _joined(*args)) is not None:
            return joined
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.macs += int(formula(*args, **(kwargs or {}), out_val=out)) // 2
        return out


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
    return tensors[0].new_empty(first)


def _same_shape(x: torch.Tensor, other: Any) -> bool:
    return isinstance(other, torch.Tensor) and other.shape == x.shape and other.dtype == x.dtype


def parameters_of(recorder: Recorder) -> Count | int:
    """Number of parameters of the recorded subnet, each counted once; a count if it depends on soft choices."""
    sizes: dict[int, Count | int] = {}
    for module, indicator in recorder.ran.items():
        used = module.used(recorder.uses[module]) if module in recorder.uses else {}  # type: ignore[operator]
        for name, parameter in module.named_parameters(recurse=False):
            size = used[name] if name in used else parameter.numel() * indicator
            sizes[id(parameter)] = largest(sizes.get(id(parameter), 0), size)
    return reduce(add, sizes.values(), 0)
