"""Softmax self-attention for heads of a few features, on the CPU.

PyTorch's kernels are made for heads of 32 features and more. With heads of 2, as NASRec has them, the
products take no time and everything else does. Here the scores of a few examples at a time stay in the
cache; exponentials are powers of 2, which PyTorch computes three times as fast as those of e; and every
product has its thin side first, which MKL runs four times as fast as last.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, cast

import torch

_LARGEST_HEAD = 4
# Scores of this many floats are computed at a time: they stay in a core's own cache.
_CHUNK = 2**17
# Powers of 2 below this vanish in float32, and with them a row whose scores all lie there.
_VANISHING = 120.0


def is_small(x: torch.Tensor, head_dim: int) -> bool:
    """Whether attention over ``x`` is faster here than in PyTorch.

    While a network is exported or compiled it must be PyTorch's one operator.
    """
    return (
        head_dim <= _LARGEST_HEAD
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


def small_head_attention(qkv: torch.Tensor) -> torch.Tensor:
    """Attention of every head over its own tokens.

    Args:
        qkv: ``(heads, 3 * d, N)``, of all examples: the features of query, key and value, each of all tokens.

    Returns:
        The mixed values, ``(heads, d, N)``.
    """
    return cast(torch.Tensor, _Attention.apply(qkv))  # type: ignore[no-untyped-call]


class _Attention(torch.autograd.Function):
    """Scores are kept as (key, query), in units of log 2, and never for all heads at once."""

    @staticmethod
    def forward(ctx: Any, qkv: torch.Tensor) -> torch.Tensor:
        query, key, value = _scaled(qkv)
        shift, safe = _upper_bound(query, key)
        # One more feature, 1 on one side, takes the shift into the products; with the values, it sums the weights.
        queries, keys, values = torch.cat([query, -shift], 1), _with_ones(key), _with_ones(value)
        totals = torch.empty_like(queries)
        for part, scores in _chunks(len(qkv), qkv.shape[2], qkv):
            torch.bmm(keys[part].transpose(1, 2), queries[part], out=scores)
            if not safe:
                most = scores.amax(1, keepdim=True)
                shift[part] += most
                scores.sub_(most)
            torch.bmm(values[part], scores.exp2_(), out=totals[part])
        mixed = totals[:, :-1] / totals[:, -1:]
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(qkv, mixed, shift + totals[:, -1:].log2())
        return mixed

    @staticmethod
    def backward(ctx: Any, *slopes: torch.Tensor) -> torch.Tensor:
        (slope,) = slopes
        qkv, mixed, logsums = ctx.saved_tensors
        query, key, value = _scaled(qkv)
        queries, keys, values = torch.cat([query, -logsums], 1), _with_ones(key), _with_ones(value)
        # d weights = weights * (value . slope - mixed . slope), the second term once a query.
        slope = slope.contiguous()
        inner = torch.cat([slope, -(slope * mixed).sum(1, keepdim=True)], 1)
        found = torch.empty_like(qkv)
        of_query, of_key, of_value = found.chunk(3, 1)
        tokens = qkv.shape[2]
        for (part, weights), (_, products) in zip(
            _chunks(len(qkv), tokens, qkv), _chunks(len(qkv), tokens, qkv), strict=True
        ):
            torch.bmm(keys[part].transpose(1, 2), queries[part], out=weights)
            weights.exp2_()
            of_value[part] = torch.bmm(slope[part], weights.transpose(1, 2))
            torch.bmm(values[part].transpose(1, 2), inner[part], out=products)
            weights.mul_(products)
            of_query[part] = torch.bmm(key[part], weights)
            of_key[part] = torch.bmm(query[part], weights.transpose(1, 2))
        size = mixed.shape[1]
        of_query.mul_(1 / math.sqrt(size))
        # The scaled query has a factor log2(e) that the slopes are not about.
        of_key.mul_(1 / math.log2(math.e))
        return found


def _scaled(qkv: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Query, key and value, each ``(heads, d, N)``; the query so that its products are in units of log 2."""
    query, key, value = qkv.chunk(3, 1)
    return query * (math.log2(math.e) / math.sqrt(query.shape[1])), key, value


def _with_ones(x: torch.Tensor) -> torch.Tensor:
    return torch.cat([x, x.new_ones(1, 1, 1).expand(len(x), 1, x.shape[2])], 1)


def _upper_bound(query: torch.Tensor, key: torch.Tensor) -> tuple[torch.Tensor, bool]:
    """What no score of a query exceeds ``(heads, 1, N)``, and whether none can lie far enough below to vanish.

    It is the largest product with any point of the box around the keys: one pass over keys and queries
    instead of two over all scores.
    """
    low, high = key.amin(2, keepdim=True), key.amax(2, keepdim=True)
    centre, reach = (high + low) / 2, (high - low) / 2
    distance = (query.abs() * reach).sum(1, keepdim=True)
    bound = (query * centre).sum(1, keepdim=True) + distance
    return bound, bool(2 * distance.amax() < _VANISHING)


def _chunks(heads: int, tokens: int, like: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
    """Parts of the heads, each with memory for their scores ``(part, N, N)``."""
    size = max(1, _CHUNK // (tokens * tokens))
    memory = like.new_empty(min(size, heads), tokens, tokens)
    for start in range(0, heads, size):
        yield slice(start, start + size), memory[: min(size, heads - start)]
