"""A private copy of a network whose modules report to the recorder."""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import lru_cache, partial
from itertools import chain
from typing import Any

import torch
from torch import nn

from manynet.elastic.layer import Elastic
from manynet.elastic.operations import Operations
from manynet.elastic.recorder import Recorder, recording, storage


class Watched:
    """Records passes of a network that belongs to this object alone.

    Args:
        network: is changed: it evaluates, and its modules report to the active recorder until :meth:`released`.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network.eval()
        self._places = _places(network, recurse=True)
        for module in network.modules():
            _tell(module)

    def record(
        self,
        inputs: Sequence[torch.Tensor],
        arch: Mapping[str, Any],
        metering: bool = False,
        training: bool = False,
    ) -> Recorder:
        """One forward pass without gradients.

        Args:
            inputs: batch first.
            arch: choices; undecided ones only when metering.
            metering: see :class:`Recorder`.
            training: tell modules that they train, if training may make them use more. Others, such as dropout and
                batch norm, evaluate.
        """
        recorder = Recorder(metering, training)
        with torch.no_grad(), Operations(recorder, self._places), recorder:
            self.network(*inputs, arch=arch)
        return recorder

    def released(self) -> nn.Module:
        """The network, which reports no more."""
        for module in self.network.modules():
            silence(module)
        return self.network


def silence(module: nn.Module) -> None:
    """Let a module of a watched network report no more."""
    module.__dict__.pop("forward", None)
    original = module.__dict__.pop("_watched_forward", None)
    if original is not None:
        module.__dict__["forward"] = original
    module.__class__ = vars(type(module)).get("_watched_class", type(module))


def _tell(module: nn.Module) -> None:
    # Not a hook: forward is also called by name.
    if "forward" in module.__dict__:
        module.__dict__["_watched_forward"] = module.__dict__["forward"]
    places = _places(module) if isinstance(module, Elastic) else None
    module.__dict__["forward"] = partial(_run, module, module.forward, places)
    if not _uses_nothing_more(module):
        module.__class__ = _mode_telling(type(module))  # type: ignore[arg-type]


def _run(
    module: nn.Module,
    forward: Callable[..., Any],
    noted: AbstractSet[int] | None,
    /,
    *inputs: Any,
    **arguments: Any,
) -> Any:
    recorder = recording()
    if recorder is None:
        return forward(*inputs, **arguments)
    recorder.entered(module)
    if noted is None:
        return forward(*inputs, **arguments)
    with recorder.inside(noted):
        return forward(*inputs, **arguments)


def _places(module: nn.Module, recurse: bool = False) -> frozenset[int]:
    """Where a module's tensors lie."""
    return frozenset(map(storage, chain(module.parameters(recurse), module.buffers(recurse))))


def _uses_nothing_more(module: nn.Module) -> bool:
    """Whether training cannot make a module run others, or touch more tensors."""
    has = next(module.children(), None), next(module.parameters(recurse=False), None)
    if isinstance(module, Elastic) or has == (None, None):
        return True
    return has[0] is None and type(module).__module__.startswith("torch.nn.")


@lru_cache(maxsize=1024)
def _mode_telling(kind: type[nn.Module]) -> type[nn.Module]:
    """A subclass whose ``training`` is the recorder's."""

    def get(self: nn.Module) -> bool:
        recorder = recording()
        if recorder is None:
            return bool(self.__dict__["training"])
        recorder.asks_mode = True
        return recorder.training

    def keep(self: nn.Module, mode: bool) -> None:
        self.__dict__["training"] = mode

    names = {
        "training": property(get, keep),
        "_watched_class": kind,
        "__module__": kind.__module__,
        "__qualname__": kind.__qualname__,
        "__doc__": kind.__doc__,
    }
    return types.new_class(kind.__name__, (kind,), {}, lambda body: body.update(names))
