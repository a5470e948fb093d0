"""Multi-head self-attention with elastic heads and width."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from manynet.elastic.angular_attention import LinearAngularAttention
from manynet.elastic.attention_maps import keep_map, maps_wanted
from manynet.elastic.control import choose
from manynet.elastic.layer import ChoiceError, Elastic, chosen
from manynet.elastic.linear import Linear
from manynet.elastic.recorder import recording
from manynet.elastic.small_heads import is_small, small_head_attention
from manynet.elastic.soft import Soft

KINDS = ("softmax", "linear-angular")


def attention_kinds(kinds: Sequence[str]) -> tuple[str, ...]:
    """Check the kinds of attention, and return them as a tuple.

    Raises:
        ChoiceError: for no kind, or an unknown one.
    """
    unknown = [kind for kind in kinds if kind not in KINDS] if kinds else [()]
    if unknown or isinstance(kinds, str):
        got = kinds if isinstance(kinds, str) else unknown[0]
        raise ChoiceError(f"attention must be some of ({', '.join(KINDS)}), but got {got!r}")
    return tuple(kinds)


def scaled_dot_product_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Softmax attention of ``(B, heads, N, d)`` over ``(B, heads, M, d)``; its two products are metered."""
    keep_map(query, key)
    if recording() is None:
        return F.scaled_dot_product_attention(query, key, value)
    # A layer only while recording: it has no state, so networks need not contain it.
    mixed: torch.Tensor = ScaledDotProductAttention()(query, key, value)
    return mixed


class ScaledDotProductAttention(Elastic):
    """The two products of softmax attention, as a layer without weights."""

    def forward(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """Mix values ``(B, heads, M, e)`` by queries ``(B, heads, N, d)`` and keys ``(B, heads, M, d)``."""
        batch, heads, tokens, head_dim = query.shape
        others, features = value.shape[-2:]
        macs = batch * heads * tokens * others * (head_dim + features)
        # Heads are independent like examples, so they count as batch in the recorded shape.
        shape = (batch * heads, tokens, head_dim)
        if self.note({}, macs, geometry=(others - tokens, features - head_dim), input=shape):
            return query.new_empty(batch, heads, tokens, features)
        return F.scaled_dot_product_attention(query, key, value)

    def form(self, geometry: Any = None) -> str:
        more, wider = geometry
        parts = [type(self).__name__, f"{more:+} keys" * bool(more), f"{wider:+} features" * bool(wider)]
        return " ".join(filter(None, parts))

    def example(
        self, shape: tuple[int, ...], geometry: Any = None
    ) -> tuple[tuple[torch.Tensor, ...], Mapping[str, Any]]:
        heads, tokens, head_dim = shape
        more, wider = geometry
        sizes = (
            (tokens, head_dim),
            (tokens + more, head_dim),
            (tokens + more, head_dim + wider),
        )
        return tuple(torch.randn(1, heads, *size) for size in sizes), {}


class PackedAttention(Elastic):
    """Softmax attention of each head over its own queries, keys and values, which arrive as one tensor.

    Args:
        head_dim: features a head.
    """

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        self.head_dim = head_dim

    def forward(self, qkv: torch.Tensor) -> torch.Tensor:
        """Map ``(B, N, heads * 3 * head_dim)`` to ``(B, N, heads * head_dim)``; each head's query, key, value are adjacent."""
        batch, tokens, width = qkv.shape
        macs = 2 * batch * tokens * tokens * (width // 3)
        if self.note({}, macs, input=(batch, tokens, width)):
            return qkv.new_empty(batch, tokens, width // 3)
        if is_small(qkv, self.head_dim):
            return small_head_attention(qkv)
        heads = qkv.view(batch, tokens, width // (3 * self.head_dim), 3, self.head_dim).permute(3, 0, 2, 1, 4)
        query, key, value = heads.unbind(0)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return mixed.transpose(1, 2).reshape(batch, tokens, width // 3)

    def form(self, geometry: Any = None) -> str:
        return f"{type(self).__name__} heads of {self.head_dim}"


class Attention(nn.Module):
    """Multi-head self-attention, "Attention Is All You Need" (arXiv 1706.03762), heads of one fixed size.

    The rows of ``qkv`` are ordered head by head, so that fewer heads are one leading slice of it. All kinds of attention
    share ``qkv`` and ``proj``; subnets of one kind leave out the modules of the others.

    Args:
        width: largest width of a token.
        heads: largest number of heads.
        head_dim: features a head.
        bias: whether ``qkv`` has one.
        kinds: kinds that calls may use: ``"softmax"``, ``"linear-angular"`` or both.
        angular: further arguments of :class:`manynet.elastic.LinearAngularAttention`.

    Raises:
        ChoiceError: for no kind, or an unknown one.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        head_dim: int,
        bias: bool = True,
        kinds: Sequence[str] = ("softmax",),
        angular: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.kinds = attention_kinds(kinds)
        self.qkv = Linear(width, heads * 3 * head_dim, bias=bias)
        if "softmax" in self.kinds:
            self.mix = PackedAttention(head_dim)
        if "linear-angular" in self.kinds:
            self.angular = LinearAngularAttention(heads, head_dim, **(angular or {}))
        self.proj = Linear(heads * head_dim, width)

    @property
    def heads(self) -> int:
        """Largest number of heads."""
        return self.proj.in_features // self.head_dim

    def forward(
        self,
        x: torch.Tensor,
        heads: int | None = None,
        width: int | None = None,
        kind: str | Soft | None = None,
    ) -> torch.Tensor:
        """Mix tokens ``(B, N, width)`` with the first ``heads`` heads; the default is the first kind.

        With a soft kind, the mixed values of all kinds are summed by weight.

        Raises:
            ChoiceError: for more heads, a larger width or another kind than the layer has.
        """
        count = chosen(heads, self.heads, "heads")
        qkv = self.qkv(x, out_features=count * 3 * self.head_dim, in_features=width)
        operators = {"softmax": self._softmax, "linear-angular": self._linear_angular}
        mixed = choose({name: operators[name] for name in self.kinds}, kind or self.kinds[0], qkv)
        output: torch.Tensor = self.proj(mixed, out_features=x.shape[-1])
        return output

    def _softmax(self, qkv: torch.Tensor) -> torch.Tensor:
        if maps_wanted():
            query, key, _ = qkv.unflatten(2, (-1, 3, self.head_dim)).transpose(1, 2).unbind(3)
            keep_map(query, key)
        mixed: torch.Tensor = self.mix(qkv)
        return mixed

    def _linear_angular(self, qkv: torch.Tensor) -> torch.Tensor:
        mixed: torch.Tensor = self.angular(*qkv.unflatten(2, (-1, 3, self.head_dim)).unbind(3))
        return mixed
