"""Softmax self-attention for heads of two features, on the CPU.

PyTorch's kernels are made for heads of 32 features and more. With heads of 2, as NASRec has them, the products
take no time and reading and writing the scores takes all of it. The compiled loops of
:mod:`manynet.elastic.small_heads_loops` never write a score.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import torch

HEAD_DIM = 2


def is_small(x: torch.Tensor, head_dim: int) -> bool:
    """Whether :func:`small_head_attention` can take ``x``, and is faster than PyTorch.

    While a network is exported or compiled it must be PyTorch's one operator.
    """
    return (
        head_dim == HEAD_DIM
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


def small_head_attention(qkv: torch.Tensor) -> torch.Tensor:
    """Attention of every head over its own tokens.

    Args:
        qkv: ``(B, N, heads * 6)``: head by head, the two features each of query, key and value.

    Returns:
        The mixed values, ``(B, N, heads * 2)``.
    """
    return cast(torch.Tensor, _Attention.apply(qkv))  # type: ignore[no-untyped-call]


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv: torch.Tensor) -> torch.Tensor:
        # Here, because Numba takes a while to load, and few networks need it.
        from manynet.elastic.small_heads_loops import attend

        batch, tokens, width = qkv.shape
        qkv = qkv.contiguous()
        mixed = qkv.new_empty(batch, tokens, width // 3)
        logsums = qkv.new_empty(batch, width // (3 * HEAD_DIM), tokens)
        _on_all_threads(attend, qkv, mixed, logsums)
        ctx.save_for_backward(qkv, mixed, logsums)
        return mixed

    @staticmethod
    def backward(ctx: Any, *slopes: torch.Tensor) -> torch.Tensor:
        from manynet.elastic.small_heads_loops import attend_backward

        (slope,) = slopes
        qkv, mixed, logsums = ctx.saved_tensors
        found = torch.empty_like(qkv)
        _on_all_threads(attend_backward, qkv, mixed, logsums, slope.contiguous(), found)
        return found


def _on_all_threads(loops: Callable[..., None], *tensors: torch.Tensor) -> None:
    """Run compiled loops over the examples of all tensors ``(B, ...)``, a part of them on each thread."""
    arrays = [x.detach().numpy() for x in tensors]
    batch, threads = len(arrays[0]), torch.get_num_threads()
    if threads == 1 or batch < threads:
        loops(*arrays)
        return
    size = -(-batch // threads)
    parts = [[x[start : start + size] for x in arrays] for start in range(0, batch, size)]
    with ThreadPoolExecutor(len(parts)) as pool:
        for done in [pool.submit(loops, *part) for part in parts]:
            done.result()
