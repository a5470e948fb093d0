"""Depthwise convolutions of attention's values, along tokens or on their grid, optimised for CPUs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from manynet.elastic.layer import ChoiceError, Elastic, leading

TAPS, SIDE = 9, 3


class TokenTaps(Elastic):
    """A convolution along flattened tokens, one kernel of 9 taps for all features of a head.

    As released with Castling-ViT (arXiv 2211.10526).

    Args:
        heads: largest number of heads.
    """

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(_uniform(heads, TAPS))

    def forward(self, mixed: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """Add the convolution of values ``(B, N, heads, d)`` to ``mixed``, ``(B, heads, N, d)``, in place.

        Returns:
            The sum as tokens, ``(B, N, heads * d)``.
        """
        batch, tokens, heads, head_dim = value.shape
        macs = batch * tokens * heads * head_dim * TAPS
        shape = (batch, tokens, heads * head_dim)
        if self.note({"weight": (heads, TAPS)}, macs, geometry=head_dim, input=shape):
            return value.new_empty(shape)
        weight = leading(self.weight, (heads,))
        value = value.transpose(1, 2)
        if value.is_meta:
            # The equivalent single operator, whose multiply-adds PyTorch counts.
            added = F.conv2d(value, weight[:, None, :, None], padding=(TAPS // 2, 0), groups=heads)
            return as_tokens(mixed + added)
        # Shifted sums: a grouped convolution of so few channels takes several times as long.
        padded = F.pad(value, (0, 0, TAPS // 2, TAPS // 2))
        for tap in range(TAPS):
            # The gradient of a sum does not need its terms, so it can be added in place.
            mixed.addcmul_(padded[:, :, tap : tap + tokens], weight[:, tap, None, None])
        return as_tokens(mixed)

    def form(self, geometry: Any = None) -> str:
        return f"{type(self).__name__} heads of {geometry}"

    def example(
        self, shape: tuple[int, ...], geometry: Any = None
    ) -> tuple[tuple[torch.Tensor, ...], Mapping[str, Any]]:
        return mixed_and_value(shape, geometry), {}


class TokenGrid(Elastic):
    """A 3 x 3 convolution on the grid of tokens, a kernel for each feature; prefix tokens get nothing.

    Args:
        features: of all heads together, at most.
        prefix_tokens: tokens before those of the grid, such as a class token.
    """

    def __init__(self, features: int, prefix_tokens: int = 0) -> None:
        super().__init__()
        self.prefix_tokens = prefix_tokens
        self.weight = nn.Parameter(_uniform(features, 1, SIDE, SIDE))

    def forward(self, mixed: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """Add the convolution of values ``(B, N, heads, d)`` to ``mixed``, ``(B, heads, N, d)``.

        Returns:
            The sum as tokens, ``(B, N, heads * d)``.

        Raises:
            ChoiceError: when the tokens are no square grid.
        """
        batch, tokens, heads, head_dim = value.shape
        features, side = heads * head_dim, self._side(tokens)
        macs = batch * side * side * features * SIDE * SIDE
        sizes = {"weight": (features, 1, SIDE, SIDE)}
        if self.note(sizes, macs, geometry=head_dim, input=(batch, tokens, features)):
            return value.new_empty(batch, tokens, features)
        grid = value[:, self.prefix_tokens :].reshape(batch, side, side, features).permute(0, 3, 1, 2)
        added = F.conv2d(grid, leading(self.weight, (features,)), padding=SIDE // 2, groups=features)
        # Features are last in memory, before and after: no copy.
        added = added.permute(0, 2, 3, 1).reshape(batch, side * side, heads, head_dim)
        if self.prefix_tokens:
            added = F.pad(added, (0, 0, 0, 0, self.prefix_tokens, 0))
        # In this order the sum has the memory layout of the tokens.
        return (added + mixed.transpose(1, 2)).flatten(2)

    def _side(self, tokens: int) -> int:
        side = math.isqrt(max(0, tokens - self.prefix_tokens))
        if not side or side * side != tokens - self.prefix_tokens:
            raise ChoiceError(
                f"tokens must be a square grid after {self.prefix_tokens} others, but got {tokens} in all"
            )
        return side

    def form(self, geometry: Any = None) -> str:
        return f"{type(self).__name__} heads of {geometry}" + f" after {self.prefix_tokens}" * bool(
            self.prefix_tokens
        )

    def example(
        self, shape: tuple[int, ...], geometry: Any = None
    ) -> tuple[tuple[torch.Tensor, ...], Mapping[str, Any]]:
        return mixed_and_value(shape, geometry), {}


def as_tokens(mixed: torch.Tensor) -> torch.Tensor:
    """Values of each head ``(B, heads, N, d)`` as tokens ``(B, N, heads * d)``."""
    return mixed.transpose(1, 2).flatten(2)


def mixed_and_value(shape: tuple[int, ...], head_dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random ``(B, heads, N, d)`` and ``(B, N, heads, d)`` for tokens of ``(B, N, heads * d)``."""
    batch, tokens, features = shape
    heads = features // head_dim
    return torch.randn(batch, heads, tokens, head_dim), torch.randn(batch, tokens, heads, head_dim)


def _uniform(*shape: int) -> torch.Tensor:
    """Weights of a depthwise kernel of 9 elements, initialised as in PyTorch's convolutions."""
    return nn.init.uniform_(torch.empty(shape), -1 / 3, 1 / 3)
