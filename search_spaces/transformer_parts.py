"""Shared parts of vision transformers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from manynet import elastic


class Block(nn.Module):
    """Pre-norm transformer block.

    Args:
        attention: maps tokens ``(B, N, width)`` to the same shape, given ``kind`` and its own choices.
        width: largest features of a token.
        hidden: largest features inside the MLP.
    """

    def __init__(self, attention: nn.Module, width: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = elastic.LayerNorm(width)
        self.attention = attention
        self.norm2 = elastic.LayerNorm(width)
        self.expand = elastic.Linear(width, hidden)
        self.project = elastic.Linear(hidden, width)

    def forward(
        self, x: torch.Tensor, mlp_ratio: float, attention: str | None = None, **choices: Any
    ) -> torch.Tensor:
        """Map tokens ``(B, N, width)`` to ``(B, N, width)``; the width is the input's.

        Args:
            x: tokens.
            mlp_ratio: hidden features of the MLP, as a multiple of the width.
            attention: its kind; the first by default.
            choices: of the attention, such as ``heads``.
        """
        width = x.shape[-1]
        x = x + self.attention(self.norm1(x), kind=attention, **choices)
        hidden = F.gelu(self.expand(self.norm2(x), out_features=int(width * mlp_ratio)))
        output: torch.Tensor = x + self.project(hidden, out_features=width)
        return output


def grid_of(tokens: torch.Tensor) -> torch.Tensor:
    """Tokens ``(B, 1 + h * h, width)``, the class token first, as a grid ``(B, width, h, h)`` without it."""
    batch, count, width = tokens.shape
    side = math.isqrt(count - 1)
    return tokens[:, 1:].transpose(1, 2).reshape(batch, width, side, side)


def initialise(module: nn.Module) -> None:
    """Draw the weights of a fully connected layer."""
    if isinstance(module, elastic.Linear):
        # As the first vision transformers (arXiv 2010.11929): a fixed small scale would slow narrow nets down.
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)


def versioned_attention(
    attention: Sequence[str], angular: Mapping[str, Any] | None
) -> tuple[tuple[str, ...], str]:
    """Kinds of attention, and the space's version, which names the options that are no choices.

    Raises:
        ChoiceError: for an unknown kind or option of linear-angular attention.
    """
    kinds = elastic.attention_kinds(attention)
    if "linear-angular" not in kinds:
        return kinds, "1"
    # Built only to raise for a wrong option here, not when a network is built.
    elastic.LinearAngularAttention(1, 1, **(angular or {}))
    return kinds, ", ".join(
        ["1", *kinds, *(f"{key} {value}" for key, value in sorted((angular or {}).items()))]
    )


def square_image(channels: int, arch: Mapping[str, Any]) -> tuple[int, int, int]:
    """Shape of one image at the architecture's resolution."""
    return channels, arch["resolution"], arch["resolution"]
