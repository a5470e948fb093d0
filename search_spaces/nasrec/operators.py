"""The operators of a NASRec block (Zhang et al., arXiv 2207.07187), with one weight for each source.

Dense activations are ``(B, width)``. Tokens are ``(B, dim, tokens)``, so that mixing tokens is a linear map of
the last dimension. A block reads any earlier sources: ``y = sum_j W_j x_j`` over the chosen ones, each ``W_j``
sliced to its own input. Nothing is concatenated, so nothing has to be masked.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from itertools import combinations_with_replacement
from operator import add
from typing import ClassVar, final

import torch
from torch import nn
from torch.nn import functional as F

from manynet import elastic

Sources = Mapping[str, torch.Tensor]
Sizes = Mapping[str, int]

_HEAD_DIM = 2
# The authors initialise the two norms of attention with this scale.
_ATTENTION_SCALE = 0.17


@dataclass(frozen=True)
class Limits:
    """Largest sizes of a network.

    Attributes:
        width: of dense activations.
        tokens: output tokens of a sparse operator.
        dim: features of a token, and of an embedding.
    """

    width: int
    tokens: int
    dim: int

    @property
    def interacting(self) -> int:
        """Tokens in a balanced dot product, such that their pairs are about ``width``."""
        return round(math.sqrt(2 * self.width))


class PerSource(nn.Module):
    """A linear map of several sources at once.

    Args:
        sizes: largest size of each source's last dimension.
        size: largest size of the output's last dimension.
    """

    def __init__(self, sizes: Sizes, size: int) -> None:
        super().__init__()
        self.weights = nn.ModuleDict(
            {name: elastic.Linear(inner, size, bias=False) for name, inner in sizes.items()}
        )

    def forward(self, sources: Sources, size: int | None = None) -> torch.Tensor:
        """Map sources ``(..., n_j)`` to ``(..., size)``."""
        parts: list[torch.Tensor] = [self.weights[name](x, out_features=size) for name, x in sources.items()]
        return reduce(add, parts)


class DenseOperator(nn.Module, ABC):
    """Operator with a dense output ``(B, width)``.

    Attributes:
        reads: the block's connections that it reads.
    """

    reads: ClassVar[tuple[str, ...]]

    @abstractmethod
    def forward(self, width: int, inputs: Mapping[str, Sources]) -> torch.Tensor:
        """Combine inputs, by connection: dense ``(B, d_j)`` or tokens ``(B, dim, n_j)``."""


class SparseOperator(nn.Module, ABC):
    """Operator with an output of tokens ``(B, dim, tokens)``."""

    @abstractmethod
    def forward(self, tokens: int, sources: Sources) -> torch.Tensor:
        """Combine tokens ``(B, dim, n_j)``."""


@final
class FullyConnected(DenseOperator):
    """``relu(LN(W x))``."""

    reads = ("dense_from",)

    def __init__(self, dense: Sizes, tokens: Sizes, limits: Limits) -> None:
        super().__init__()
        self.project = PerSource(dense, limits.width)
        self.norm = elastic.LayerNorm(limits.width)

    def forward(self, width: int, inputs: Mapping[str, Sources]) -> torch.Tensor:
        return F.relu(self.norm(self.project(inputs["dense_from"], width)))


class Pairwise(DenseOperator):
    """A linear map of each of two connections, combined, then normalised."""

    reads = ("left", "right")

    def __init__(self, dense: Sizes, tokens: Sizes, limits: Limits) -> None:
        super().__init__()
        self.left = PerSource(dense, limits.width)
        self.right = PerSource(dense, limits.width)
        self.norm = elastic.LayerNorm(limits.width)

    def forward(self, width: int, inputs: Mapping[str, Sources]) -> torch.Tensor:
        left, right = self.left(inputs["left"], width), self.right(inputs["right"], width)
        output: torch.Tensor = self.norm(self.combined(left, right))
        return output

    @abstractmethod
    def combined(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """One activation ``(B, width)`` of two."""


@final
class Gating(Pairwise):
    """``LN(sigmoid(W_l x_l) * W_r x_r)``; normalised, because products of activations have no scale."""

    def combined(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(left) * right


@final
class Sum(Pairwise):
    """``LN(W_l x_l + W_r x_r)``."""

    def combined(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return left + right


@final
class DotProduct(DenseOperator):
    """Products of all pairs of tokens, a dense one among them, as in DLRM (arXiv 1906.00091), balanced.

    The input tokens are first mixed to a fixed number. Only the mixing grows with the number of input tokens,
    so the operator costs about as much as the others.
    """

    reads = ("dense_from", "sparse_from")

    def __init__(self, dense: Sizes, tokens: Sizes, limits: Limits) -> None:
        super().__init__()
        count = limits.interacting
        self.dense = PerSource(dense, limits.dim)
        self.dense_norm = elastic.LayerNorm(limits.dim)
        self.mix = PerSource(tokens, count)
        self.mix_norm = elastic.LayerNorm(count)
        self.project = elastic.Linear(count * (count + 1) // 2, limits.width, bias=False)
        self.norm = elastic.LayerNorm(limits.width)
        # Not persistent: it depends on the sizes alone.
        self.register_buffer("pairs", _pairs_below_diagonal(count + 1), persistent=False)

    def forward(self, width: int, inputs: Mapping[str, Sources]) -> torch.Tensor:
        x = self.dense_norm(self.dense(inputs["dense_from"]))
        tokens = torch.cat([x.unsqueeze(-1), self.mix_norm(self.mix(inputs["sparse_from"]))], dim=-1)
        products = (tokens.transpose(1, 2) @ tokens).flatten(1)
        assert isinstance(self.pairs, torch.Tensor)
        output: torch.Tensor = self.norm(self.project(products.index_select(1, self.pairs), width))
        return output


def _pairs_below_diagonal(count: int) -> torch.Tensor:
    """Indices of the strict lower triangle in a flattened ``(count, count)`` matrix."""
    rows, columns = torch.tril_indices(count, count, offset=-1)
    indices: torch.Tensor = rows * count + columns
    return indices


@final
class UnbalancedDotProduct(DenseOperator):
    """Products of all pairs of input tokens: cost and weights grow with the square of their number.

    The dot product without operator balancing; for comparison.
    """

    reads = ("dense_from", "sparse_from")

    def __init__(self, dense: Sizes, tokens: Sizes, limits: Limits) -> None:
        super().__init__()
        self.dense = PerSource(dense, limits.dim)
        self.dense_norm = elastic.LayerNorm(limits.dim)
        sizes = {"dense": 1, **tokens}
        self.pairs = nn.ModuleDict(
            {
                _pair(first, second): Products(sizes[first], sizes[second], limits.width)
                for first, second in combinations_with_replacement(sizes, 2)
                if (first, second) != ("dense", "dense")
            }
        )
        self.order = tuple(sizes)
        self.norm = elastic.LayerNorm(limits.width)

    def forward(self, width: int, inputs: Mapping[str, Sources]) -> torch.Tensor:
        x = self.dense_norm(self.dense(inputs["dense_from"])).unsqueeze(-1)
        sources = {"dense": x, **inputs["sparse_from"]}
        names = [name for name in self.order if name in sources]
        parts = [
            self.pairs[_pair(first, second)](sources[first], sources[second], width)
            for first, second in combinations_with_replacement(names, 2)
            if (first, second) != ("dense", "dense")
        ]
        output: torch.Tensor = self.norm(reduce(add, parts))
        return output


def _pair(first: str, second: str) -> str:
    return f"{first}-{second}"


class Products(nn.Module):
    """A linear map of the products of all tokens of one source with all of another."""

    def __init__(self, first: int, second: int, width: int) -> None:
        super().__init__()
        scale = (first * second) ** -0.5
        self.weight = elastic.Parameter(torch.empty(width, first, second).uniform_(-scale, scale))

    def forward(self, first: torch.Tensor, second: torch.Tensor, width: int) -> torch.Tensor:
        """Map tokens ``(B, dim, n)`` and ``(B, dim, m)`` to ``(B, width)``."""
        weight = self.weight(width, first.shape[-1], second.shape[-1]).flatten(1)
        return F.linear((first.transpose(1, 2) @ second).flatten(1), weight)


@final
class EmbedFullyConnected(SparseOperator):
    """``relu(LN(W x))`` over tokens, the same for every feature of a token."""

    def __init__(self, tokens: Sizes, limits: Limits) -> None:
        super().__init__()
        self.project = PerSource(tokens, limits.tokens)
        self.norm = elastic.LayerNorm(limits.tokens)

    def forward(self, tokens: int, sources: Sources) -> torch.Tensor:
        return F.relu(self.norm(self.project(sources, tokens)))


@final
class Attention(SparseOperator):
    """A post-norm transformer layer, after mixing the input tokens to the number of output tokens.

    Heads have two features each.
    """

    def __init__(self, tokens: Sizes, limits: Limits) -> None:
        super().__init__()
        self.project = PerSource(tokens, limits.tokens)
        self.norm = elastic.LayerNorm(limits.tokens)
        self.attention = elastic.Attention(limits.dim, limits.dim // _HEAD_DIM, _HEAD_DIM, bias=False)
        self.attention_norm = elastic.LayerNorm(limits.dim)
        self.expand = elastic.Linear(limits.dim, limits.dim)
        self.contract = elastic.Linear(limits.dim, limits.dim)
        self.contract_norm = elastic.LayerNorm(limits.dim)
        for norm in (self.attention_norm, self.contract_norm):
            nn.init.constant_(norm.weight, _ATTENTION_SCALE)

    def forward(self, tokens: int, sources: Sources) -> torch.Tensor:
        # Transposed copies, here and back: linear layers are slow on a transposed view.
        x = self.norm(self.project(sources, tokens)).transpose(1, 2).contiguous()
        x = self.attention_norm(x + self.attention(x))
        output: torch.Tensor = self.contract_norm(x + self.contract(F.relu(self.expand(x))))
        return output.transpose(1, 2).contiguous()


class DenseToSparse(nn.Module):
    """Merger: a dense activation as further tokens, ``LN(W x)``."""

    TOKENS = 8

    def __init__(self, limits: Limits) -> None:
        super().__init__()
        self.dim = limits.dim
        self.project = elastic.Linear(limits.width, self.TOKENS * limits.dim, bias=False)
        self.norm = elastic.LayerNorm(self.TOKENS * limits.dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``(B, width)`` to tokens ``(B, dim, 8)``."""
        tokens: torch.Tensor = self.norm(self.project(x)).view(-1, self.dim, self.TOKENS)
        return tokens


class FactorizationMachine(nn.Module):
    """Merger: the sum of all products of two different tokens, as a dense activation (Rendle, ICDM 2010)."""

    def __init__(self, limits: Limits) -> None:
        super().__init__()
        self.project = elastic.Linear(limits.dim, limits.width, bias=False)
        self.norm = elastic.LayerNorm(limits.width)

    def forward(self, tokens: torch.Tensor, width: int) -> torch.Tensor:
        """Map tokens ``(B, dim, n)`` to ``(B, width)``."""
        products = tokens.sum(-1).square() - tokens.square().sum(-1)
        output: torch.Tensor = self.norm(self.project(products, out_features=width))
        return output
