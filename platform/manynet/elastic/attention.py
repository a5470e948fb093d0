"""Multi-head self-attention with elastic heads and width."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from manynet.elastic.layer import chosen
from manynet.elastic.linear import Linear
from manynet.elastic.recorder import recording
from manynet.elastic.small_heads import is_small, small_head_attention


def scaled_dot_product_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Softmax attention of ``(B, heads, N, d)`` over ``(B, heads, M, d)``; its two products are metered."""
    recorder = recording()
    macs = query.numel() * key.shape[-2] + query[..., 0].numel() * value.shape[-2] * value.shape[-1]
    if recorder is not None and recorder.add(macs):
        return query.new_empty(*query.shape[:-1], value.shape[-1])
    return F.scaled_dot_product_attention(query, key, value)


class Attention(nn.Module):
    """Multi-head self-attention, "Attention Is All You Need" (arXiv 1706.03762), heads of one fixed size.

    The rows of ``qkv`` are ordered head by head, so that fewer heads are one leading slice of it.

    Args:
        width: largest width of a token.
        heads: largest number of heads.
        head_dim: features a head.
        bias: whether ``qkv`` has one.
    """

    def __init__(self, width: int, heads: int, head_dim: int, bias: bool = True) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.qkv = Linear(width, heads * 3 * head_dim, bias=bias)
        self.proj = Linear(heads * head_dim, width)

    @property
    def heads(self) -> int:
        """Largest number of heads."""
        return self.proj.in_features // self.head_dim

    def forward(self, x: torch.Tensor, heads: int | None = None, width: int | None = None) -> torch.Tensor:
        """Mix tokens ``(B, N, width)`` with the first ``heads`` heads.

        Raises:
            ChoiceError: for more heads or a larger width than there is.
        """
        count = chosen(heads, self.heads, "heads")
        qkv = self.qkv(x, out_features=count * 3 * self.head_dim, in_features=width)
        output: torch.Tensor = self.proj(self._mixed(qkv, count), out_features=x.shape[-1])
        return output

    def _mixed(self, qkv: torch.Tensor, count: int) -> torch.Tensor:
        """Values ``(B, N, count * head_dim)``, mixed by each head's own attention."""
        batch, tokens, width = qkv.shape
        if is_small(qkv, self.head_dim):
            return small_head_attention(qkv)
        query, key, value = qkv.view(batch, tokens, count, 3, self.head_dim).permute(3, 0, 2, 1, 4).unbind(0)
        mixed = scaled_dot_product_attention(query, key, value)
        return mixed.transpose(1, 2).reshape(batch, tokens, width // 3)
