"""Puts other tensors in the place of a network's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from manynet.elastic.layer import Elastic

_TREE = frozenset({"_parameters", "_buffers", "_modules"})


def replace_tensors(network: nn.Module, tensors: Mapping[int, torch.Tensor]) -> None:
    """Replace tensors wherever modules hold them, also in lists of theirs, so that what was one stays one.

    Args:
        network: is changed.
        tensors: the new ones, by the identity of the old.
    """
    for module in network.modules():
        replaced = False
        for held in (module._parameters, module._buffers):
            for name, tensor in held.items():
                if id(tensor) in tensors:
                    held[name] = tensors[id(tensor)]  # type: ignore[assignment]
                    replaced = True
        for name, value in vars(module).items():
            if name not in _TREE:
                module.__dict__[name] = _replaced(value, tensors)
        if replaced and isinstance(module, Elastic):
            module.resized()


def copied(part: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
    """A contiguous copy of ``part``; a parameter if ``whole``, whose place it takes, is one."""
    copy = part.detach().clone(memory_format=torch.contiguous_format)
    return nn.Parameter(copy, whole.requires_grad) if isinstance(whole, nn.Parameter) else copy


def _replaced(value: Any, tensors: Mapping[int, torch.Tensor]) -> Any:
    """``value`` with its tensors replaced; itself where it holds none of them."""
    if isinstance(value, torch.Tensor):
        return tensors.get(id(value), value)
    if type(value) in (list, tuple):
        parts = [_replaced(part, tensors) for part in value]
        return (
            type(value)(parts)
            if any(new is not old for new, old in zip(parts, value, strict=True))
            else value
        )
    if type(value) is dict:
        entries = {key: _replaced(part, tensors) for key, part in value.items()}
        return entries if any(entries[key] is not part for key, part in value.items()) else value
    return value
