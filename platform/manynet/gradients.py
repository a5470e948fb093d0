"""Gradients of one optimizer step, averaged over workers once however many backward passes it has."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import distributed as dist
from torch import nn

_BUCKET_BYTES = 32 * 2**20


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
        for parameters in self._reached(group):
            gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
            flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
            average([flat], group)
            for parameter, part in zip(parameters, flat.split([g.numel() for g in gradients]), strict=True):
                parameter.grad = part.view_as(parameter)

    def clip(self, limit: float) -> torch.Tensor:
        """Scale gradients so that their norm is at most ``limit`` (0 is no limit); the norm before, a scalar."""
        reached = [parameter for parameter in self.parameters if parameter.grad is not None]
        norm: torch.Tensor = nn.utils.get_total_norm([p.grad for p in reached if p.grad is not None])
        if limit > 0:
            nn.utils.clip_grads_with_norm_(reached, limit, norm)
        return norm

    def _reached(self, group: dist.ProcessGroup | None) -> list[list[nn.Parameter]]:
        """Parameters for which any worker has a gradient, those of one kind together."""
        device = self.parameters[0].device
        has = torch.tensor([p.grad is not None for p in self.parameters], dtype=torch.int32, device=device)
        dist.all_reduce(has, op=dist.ReduceOp.MAX, group=group)
        kinds: dict[tuple[torch.dtype, torch.device], list[nn.Parameter]] = {}
        for parameter, reached in zip(self.parameters, has.tolist(), strict=True):
            if reached:
                kinds.setdefault((parameter.dtype, parameter.device), []).append(parameter)
        return list(kinds.values())


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
