"""Linear-angular attention: the linear terms of angular similarity, at a cost linear in tokens.

"Castling-ViT" (arXiv 2211.10526). The similarity of a query and a key is 1 minus their angle over pi, of which
``1/2 + q.k / pi`` is kept, for q and k of length 1. So values mix as ``c + Q (K^T V) / pi``, where the constant ``c`` is
half the sum of all values; the released code has half of each token's own value there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from manynet.elastic.attention_maps import refuse_maps
from manynet.elastic.auxiliary import auxiliary_branch
from manynet.elastic.depthwise import TokenGrid, TokenTaps, as_tokens
from manynet.elastic.layer import ChoiceError, Elastic

CONSTANTS = ("released", "exact")
BRANCHES = ("taps", "grid", "none")
EPSILON = 1e-6
"""Added to squared lengths, so that normalising a zero vector gives zero and a finite gradient."""


class AngularProducts(Elastic):
    """The two products of linear-angular attention, and its normalisations, as a layer without weights.

    Args:
        constant: ``"released"``: ``v / 2`` of each token; ``"exact"``: half the sum over tokens.

    Raises:
        ChoiceError: for another constant.
    """

    def __init__(self, constant: str = "released") -> None:
        super().__init__()
        if constant not in CONSTANTS:
            raise ChoiceError(f"constant must be one of ({', '.join(CONSTANTS)}), but got {constant!r}")
        self.constant = constant

    def forward(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """Mix values ``(B, N, heads, d)`` by queries and keys of the same shape; the result has length 1.

        In training mode the branch of an active :func:`manynet.elastic.auxiliary` is added before that.

        Returns:
            ``(B, heads, N, d)``, contiguous.
        """
        batch, tokens, heads, head_dim = query.shape
        macs = 2 * batch * heads * tokens * head_dim * min(tokens, head_dim)
        if self.note({}, macs, geometry=head_dim, input=(batch, tokens, heads * head_dim)):
            return query.new_empty(batch, heads, tokens, head_dim)
        # One copy each, so that all heads are one batched product. Without gradients the copies are reused in place:
        # allocating fresh pages takes longer than the arithmetic.
        query, key, value = (_by_head(x) for x in (query, key, value))
        branch = auxiliary_branch() if self.training else None
        reusable = branch is None and not (query.requires_grad or key.requires_grad or value.requires_grad)
        mixed = self._products(normalised(query, reusable), normalised(key, reusable), value, reusable)
        if branch is not None:
            mixed = branch.add(self, mixed, query, key, value)
        return normalised(mixed, reusable).view(batch, heads, tokens, head_dim)

    def _products(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, reusable: bool
    ) -> torch.Tensor:
        """``c + Q (K^T V) / pi`` of ``(B * heads, N, d)``, in the order that takes fewer multiply-adds."""
        tokens, head_dim = query.shape[1:]
        constant = value if self.constant == "released" else value.sum(1, keepdim=True)
        if tokens > head_dim:
            left, right = query, torch.bmm(key.transpose(1, 2), value)
        else:
            left, right = torch.bmm(query, key.transpose(1, 2)), value
        if reusable and constant is value and right is not value:
            return value.baddbmm_(left, right, beta=0.5, alpha=1 / math.pi)
        return torch.baddbmm(constant, left, right, beta=0.5, alpha=1 / math.pi)

    def form(self, geometry: Any = None) -> str:
        return f"{type(self).__name__} {self.constant} heads of {geometry}"

    def example(
        self, shape: tuple[int, ...], geometry: Any = None
    ) -> tuple[tuple[torch.Tensor, ...], Mapping[str, Any]]:
        batch, tokens, features = shape
        sizes = (batch, tokens, features // geometry, geometry)
        return (torch.randn(sizes), torch.randn(sizes), torch.randn(sizes)), {}


class LinearAngularAttention(nn.Module):
    """Linear-angular attention between given queries, keys and values, and a depthwise convolution of the values.

    Args:
        heads: largest number of heads.
        head_dim: features a head, at most.
        constant: see :class:`AngularProducts`.
        branch: ``"grid"``, 3 x 3 on the square grid of tokens, a kernel a feature; ``"taps"``, a kernel a head along
            tokens, as released; or ``"none"``.
        prefix_tokens: tokens before those of the grid, such as a class token; used by ``"grid"`` only.

    Raises:
        ChoiceError: for another constant or branch.
    """

    def __init__(
        self,
        heads: int,
        head_dim: int,
        constant: str = "released",
        branch: str = "grid",
        prefix_tokens: int = 0,
    ) -> None:
        super().__init__()
        if branch not in BRANCHES:
            raise ChoiceError(f"branch must be one of ({', '.join(BRANCHES)}), but got {branch!r}")
        self.products = AngularProducts(constant)
        self.branch: TokenTaps | TokenGrid | None = None
        if branch == "taps":
            self.branch = TokenTaps(heads)
        if branch == "grid":
            self.branch = TokenGrid(heads * head_dim, prefix_tokens)

    def forward(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """Map three times ``(B, N, heads, d)`` to mixed values ``(B, N, heads * d)``.

        Raises:
            ChoiceError: when ``branch="grid"`` gets tokens that form no square grid, or attention maps are requested.
        """
        refuse_maps()
        mixed: torch.Tensor = self.products(query, key, value)
        if self.branch is None:
            return as_tokens(mixed)
        output: torch.Tensor = self.branch(mixed, value)
        return output


def normalised(x: torch.Tensor, reusable: bool) -> torch.Tensor:
    """``x / sqrt(|x|^2 + 1e-6)`` along the last dimension; in place where ``x`` is reusable."""
    # Unlike a sum of squares, vector_norm does not store the squares.
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    scale = (length.square() + EPSILON).rsqrt().to(x.dtype)
    return x.mul_(scale) if reusable else x * scale


def _by_head(x: torch.Tensor) -> torch.Tensor:
    """``(B, N, heads, d)`` copied to ``(B * heads, N, d)``."""
    copied: torch.Tensor = x.transpose(1, 2).clone(memory_format=torch.contiguous_format)
    return copied.flatten(0, 1)
