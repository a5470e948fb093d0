"""Collects the attention maps of softmax attention inside a context."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

from manynet.elastic.layer import ChoiceError

_maps: ContextVar[list[torch.Tensor] | None] = ContextVar("attention_maps", default=None)


@contextmanager
def attention_maps() -> Iterator[list[torch.Tensor]]:
    """Collect a map ``(B, heads, N, N)`` of each softmax attention in the block, in order; rows sum to 1.

    Raises:
        ChoiceError: when linear-angular attention runs in the block: it has no map.
    """
    maps: list[torch.Tensor] = []
    token = _maps.set(maps)
    try:
        yield maps
    finally:
        _maps.reset(token)


def maps_wanted() -> bool:
    """Whether maps are requested."""
    return _maps.get() is not None


def keep_map(query: torch.Tensor, key: torch.Tensor) -> None:
    """Collect the map of queries and keys ``(B, heads, N, d)``, if maps are requested."""
    maps = _maps.get()
    if maps is not None:
        scores = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])
        maps.append(scores.softmax(-1))


def refuse_maps() -> None:
    """Raise if maps are requested: the caller has none.

    Raises:
        ChoiceError: if maps are requested.
    """
    if maps_wanted():
        raise ChoiceError("attention must be softmax where its maps are asked for, but got linear-angular")
