"""Softmax self-attention for heads of two features, on the CPU.

PyTorch's kernels are made for heads of 32 features and more. With heads of 2, as in NASRec, reading and
writing the scores takes nearly all the time. The compiled loops of :mod:`manynet.elastic.small_heads_loops`
never write a score.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import torch

HEAD_DIM = 2


def is_small(x: torch.Tensor, head_dim: int) -> bool:
    """Whether :func:`small_head_attention` supports ``x`` and is faster than PyTorch.

    Export and compilation need PyTorch's own operator.
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
        # Imported here, because Numba loads slowly and few networks need it.
        from manynet.elastic.small_heads_loops import attend

        batch, tokens, width = qkv.shape
        qkv = qkv.contiguous()
        mixed = qkv.new_empty(batch, tokens, width // 3)
        logsums = qkv.new_empty(batch, width // (3 * HEAD_DIM), tokens)
        _on_all_threads(attend, qkv, mixed, logsums)
        ctx.save_for_backward(qkv, mixed, logsums)
        return mixed

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        from manynet.elastic.small_heads_loops import attend_backward

        (gradient,) = gradients
        qkv, mixed, logsums = ctx.saved_tensors
        qkv_gradient = torch.empty_like(qkv)
        _on_all_threads(attend_backward, qkv, mixed, logsums, gradient.contiguous(), qkv_gradient)
        return qkv_gradient


def _on_all_threads(loops: Callable[..., None], *tensors: torch.Tensor) -> None:
    """Run compiled loops over tensors ``(B, ...)``, with examples divided among threads."""
    arrays = [x.detach().numpy() for x in tensors]
    batch, threads = len(arrays[0]), torch.get_num_threads()
    if threads == 1 or batch < threads:
        loops(*arrays)
        return
    size = -(-batch // threads)
    parts = [[x[start : start + size] for x in arrays] for start in range(0, batch, size)]
    with ThreadPoolExecutor(len(parts)) as pool:
        for future in [pool.submit(loops, *part) for part in parts]:
            future.result()
