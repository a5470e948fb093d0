"""The softmax branch that linear-angular attention has while it is trained, and that must be empty at the end.

"Castling-ViT" (arXiv 2211.10526, section 4.2): softmax attention of which small entries are zeroed. Whether the branch
is there, and its threshold, live in a context variable, never on the network: outside the context nothing of it
exists.
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
        layer: whose branch it is.
        open: entries of the attention above the threshold, a scalar that has no gradient.
        entries: all of them, ``batch * heads * tokens * tokens``.
        mass: what the open ones hold, a mean over queries: a differentiable scalar from 0 (closed) to 1 (all open).
    """

    layer: nn.Module
    open: torch.Tensor
    entries: int
    mass: torch.Tensor


@dataclass(eq=False)
class Auxiliary:
    """The branches of all layers that ran in training mode inside the context.

    Attributes:
        threshold: times the number of tokens.
        calls: of layers, in order.
    """

    threshold: float
    calls: list[Masked] = field(default_factory=list)

    @property
    def regulariser(self) -> torch.Tensor:
        """Mean over calls of what is left open, a differentiable scalar from 0 to 1; 0 where no layer ran."""
        return torch.stack([call.mass for call in self.calls]).mean() if self.calls else torch.zeros(())

    def add(
        self,
        layer: nn.Module,
        mixed: torch.Tensor,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
    ) -> torch.Tensor:
        """Add ``layer``'s branch to ``mixed``, and note what of it is open.

        Args:
            layer: that is asked for it.
            mixed: values ``(B * heads, N, d)``, not yet normalised.
            query: ``(B * heads, N, d)``, as ``key`` and ``value``; none is normalised.
        """
        rows, tokens, head_dim = query.shape
        entries = rows * tokens * tokens
        if self.threshold >= tokens:
            # No share of the attention is above 1: closed, whatever the scores are.
            nothing = query.new_zeros((), dtype=torch.float32)
            self.calls.append(Masked(layer, nothing.long(), entries, nothing))
            return mixed
        scores = torch.bmm(query, key.transpose(1, 2)).float() / math.sqrt(head_dim)
        attention = scores.softmax(-1)
        above = attention > self.threshold / tokens
        attention = attention * above
        self.calls.append(Masked(layer, above.sum(), entries, attention.sum() / (rows * tokens)))
        return mixed + torch.bmm(attention.to(value.dtype), value)


_active: ContextVar[Auxiliary | None] = ContextVar("auxiliary", default=None)


def auxiliary_branch() -> Auxiliary | None:
    """The branch of this context, or None."""
    return _active.get()


@contextmanager
def auxiliary(threshold: float) -> Iterator[Auxiliary]:
    """Inside, linear-angular layers in training mode add softmax attention above ``threshold / tokens``.

    With a threshold of 0 all entries are open; at the number of tokens, and above, none is.

    Args:
        threshold: times the number of tokens: 1 is what an entry holds when a query attends to all alike.

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
