"""Auxiliary softmax branch of linear-angular attention; used in training only, and empty at its end.

"Castling-ViT" (arXiv 2211.10526, section 4.2): softmax attention with small entries set to zero. A context variable
activates the branch and holds its threshold; the network itself holds nothing of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import torch
from torch import nn

from manynet.elastic.layer import ChoiceError


@dataclass(frozen=True, eq=False)
class Masked:
    """The branch of one call of a layer.

    Attributes:
        layer: the layer that was called.
        open: entries of the attention above the threshold, a scalar that has no gradient.
        entries: number of all entries, ``batch * heads * tokens * tokens``.
        mass: attention in open entries, a mean over queries: a differentiable scalar from 0 (closed) to 1 (all open).
    """

    layer: nn.Module
    open: torch.Tensor
    entries: int
    mass: torch.Tensor


@dataclass(eq=False)
class Auxiliary:
    """The branches of all layers that ran in training mode inside the context.

    Attributes:
        threshold: in units of 1 / tokens.
        calls: of layers, in order.
    """

    threshold: float
    calls: list[Masked] = field(default_factory=list)

    @property
    def regulariser(self) -> torch.Tensor:
        """Mean of :attr:`Masked.mass` over calls, a differentiable scalar from 0 to 1; 0 if no layer ran."""
        return torch.stack([call.mass for call in self.calls]).mean() if self.calls else torch.zeros(())

    def add(
        self,
        layer: nn.Module,
        mixed: torch.Tensor,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
    ) -> torch.Tensor:
        """Add ``layer``'s branch to ``mixed``, and record its open entries.

        Args:
            layer: the layer that is called.
            mixed: values ``(B * heads, N, d)``, not yet normalised.
            query: ``(B * heads, N, d)``, as ``key`` and ``value``; none is normalised.
        """
        rows, tokens, head_dim = query.shape
        entries = rows * tokens * tokens
        if self.threshold >= tokens:
            # No attention weight is above 1: closed for any scores.
            zero = query.new_zeros((), dtype=torch.float32)
            self.calls.append(Masked(layer, zero.long(), entries, zero))
            return mixed
        scores = torch.bmm(query, key.transpose(1, 2)).float() / math.sqrt(head_dim)
        attention = scores.softmax(-1)
        above = attention > self.threshold / tokens
        attention = attention * above
        self.calls.append(Masked(layer, above.sum(), entries, attention.sum() / (rows * tokens)))
        return mixed + torch.bmm(attention.to(value.dtype), value)


_active: ContextVar[Auxiliary | None] = ContextVar("auxiliary", default=None)


def auxiliary_branch() -> Auxiliary | None:
    """The active branch of this context, or None."""
    return _active.get()


@contextmanager
def auxiliary(threshold: float) -> Iterator[Auxiliary]:
    """Inside, linear-angular layers in training mode add softmax attention above ``threshold / tokens``.

    With a threshold of 0 all entries are open; at the number of tokens, and above, none is.

    Args:
        threshold: in units of 1 / tokens, the entry of a query that attends to all tokens equally.

    Raises:
        ChoiceError: when it is below 0 or not a number.
    """
    if not threshold >= 0:
        raise ChoiceError(f"threshold must be at least 0, but got {threshold!r}")
    branch = Auxiliary(threshold)
    token = _active.set(branch)
    try:
        yield branch
    finally:
        _active.reset(token)
