"""Gradients of one optimizer step, averaged over workers once however many backward passes it has."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import distributed as dist
from torch import nn

_BUCKET_BYTES = 32 * 2**20
Kind = tuple[torch.dtype, torch.device]


class Gradients:
    """The gradients of a network's parameters.

    A sandwich step runs several backward passes, each through a part of the weights; autograd adds them
    up. Wrapping the network in DDP would communicate every pass, and fail at the weights that got no
    gradient. Here weights that no worker reached keep none, so that optimizer and clipping pass them by:
    that is most of what a small subnet's step would otherwise cost.

    Args:
        parameters: those to train.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self.parameters = list(parameters)
        # Kept between steps: fresh memory of this size costs more than the copy into it.
        self._buffers: dict[Kind, torch.Tensor] = {}

    def clear(self) -> None:
        """Forget all gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    def average(self, group: dist.ProcessGroup | None = None) -> None:
        """Replace gradients by their mean over the workers of ``group``, who must all call it.

        A gradient that only other workers have counts as zero here.
        """
        if alone(group):
            return
        for kind, parameters in self._reached(group).items():
            sizes = [parameter.numel() for parameter in parameters]
            flat = self._buffer(kind)[: sum(sizes)]
            parts = [part.view_as(p) for p, part in zip(parameters, flat.split(sizes), strict=True)]
            torch._foreach_copy_(
                parts, [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
            )
            average([flat], group)
            for parameter, part in zip(parameters, parts, strict=True):
                parameter.grad = part

    def clip(self, limit: float) -> torch.Tensor:
        """Scale gradients so that their norm is at most ``limit`` (0 is no limit); the norm before, a scalar."""
        reached = [parameter for parameter in self.parameters if parameter.grad is not None]
        norm: torch.Tensor = nn.utils.get_total_norm([p.grad for p in reached if p.grad is not None])
        if limit > 0:
            nn.utils.clip_grads_with_norm_(reached, limit, norm)
        return norm

    def _reached(self, group: dist.ProcessGroup | None) -> dict[Kind, list[nn.Parameter]]:
        """Parameters for which any worker has a gradient, by kind."""
        device = self.parameters[0].device
        has = torch.tensor([p.grad is not None for p in self.parameters], dtype=torch.int32, device=device)
        dist.all_reduce(has, op=dist.ReduceOp.MAX, group=group)
        kinds: dict[Kind, list[nn.Parameter]] = {}
        for parameter, reached in zip(self.parameters, has.tolist(), strict=True):
            if reached:
                kinds.setdefault((parameter.dtype, parameter.device), []).append(parameter)
        return kinds

    def _buffer(self, kind: Kind) -> torch.Tensor:
        if kind not in self._buffers:
            size = sum(p.numel() for p in self.parameters if (p.dtype, p.device) == kind)
            self._buffers[kind] = torch.empty(size, dtype=kind[0], device=kind[1])
        return self._buffers[kind]


def alone(group: dist.ProcessGroup | None = None) -> bool:
    """Whether this is the only worker of ``group``."""
    return not dist.is_initialized() or dist.get_world_size(group) == 1


def average(tensors: Sequence[torch.Tensor], group: dist.ProcessGroup | None = None) -> None:
    """Replace contiguous tensors by their mean over workers, in buckets that travel side by side.

    Args:
        tensors: changed in place.
        group: the workers; None is all of them.
    """
    if alone(group):
        return
    buckets = [bucket for tensor in tensors for bucket in _buckets(tensor)]
    pending = [dist.all_reduce(bucket, group=group, async_op=True) for bucket in buckets]
    for work, bucket in zip(pending, buckets, strict=True):
        if work is not None:
            work.wait()
        bucket.div_(dist.get_world_size(group))


def _buckets(tensor: torch.Tensor) -> Sequence[torch.Tensor]:
    return torch.split(tensor.view(-1), max(1, _BUCKET_BYTES // tensor.element_size()))
