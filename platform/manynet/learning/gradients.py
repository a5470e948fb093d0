"""Gradients of one optimizer step, averaged over workers once for all its backward passes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from torch import distributed as dist
from torch import nn

from manynet.elastic.slices import separate_slices

_BUCKET_BYTES = 32 * 2**20
Kind = tuple[torch.dtype, torch.device]


class Gradients:
    """Gradients of a network's parameters, limited to the leading slices that a step used.

    A step of the sandwich rule runs several backward passes, each through a part of the weights; autograd
    adds them up. DDP would communicate every pass, and fail for weights without a gradient. Here weights
    that no worker used have no gradient, and optimizer and clipping skip them: they would be most of the
    cost of a small subnet's step.

    Args:
        parameters: parameters to train.
        sliced: whether gradients have the shape of the slice used; otherwise the full shape, with zeros.

    Attributes:
        reached: after :meth:`collect`, the gradient of each parameter that was used.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], sliced: bool = False) -> None:
        self.parameters = list(parameters)
        self.reached: dict[nn.Parameter, torch.Tensor] = {}
        self._sliced = sliced
        # Reused between steps: allocating memory of this size costs more than the copy into it.
        self._buffers: dict[Kind, torch.Tensor] = {}

    @contextmanager
    def collect(self) -> Iterator[None]:
        """Clear all gradients, then collect those of the backward passes inside the ``with`` block."""
        for parameter in self.parameters:
            parameter.grad = None
        with separate_slices() if self._sliced else nullcontext() as slices:
            yield
        gradients = {
            parameter: [parameter.grad] for parameter in self.parameters if parameter.grad is not None
        }
        known = {id(parameter): parameter for parameter in self.parameters}
        for tensor, gradient in slices.gradients() if slices else ():
            if id(tensor) in known:
                gradients.setdefault(known[id(tensor)], []).append(gradient)
        self.reached = {parameter: _union(parts) for parameter, parts in gradients.items()}

    def average(self, group: dist.ProcessGroup | None = None) -> None:
        """Average gradients over the workers of ``group``, which must all call it.

        A worker without a gradient counts as zero.
        """
        if alone(group):
            return
        reached: dict[nn.Parameter, torch.Tensor] = {}
        for kind, shapes in self._shapes(group).items():
            sizes = [shape.numel() for shape in shapes.values()]
            flat = self._buffer(kind)[: sum(sizes)]
            parts = [part.view(s) for s, part in zip(shapes.values(), flat.split(sizes), strict=True)]
            for parameter, part in zip(shapes, parts, strict=True):
                _fill(part, self.reached.get(parameter))
            average([flat], group)
            reached |= dict(zip(shapes, parts, strict=True))
        self.reached = reached

    def clip(self, limit: float) -> torch.Tensor:
        """Scale gradients so that their norm is at most ``limit`` (0 is no limit); returns the norm before, a scalar."""
        gradients = list(self.reached.values())
        norm: torch.Tensor = nn.utils.get_total_norm(gradients)
        if limit > 0 and gradients:
            scale = (limit / (norm + 1e-6)).clamp(max=1.0)
            torch._foreach_mul_(gradients, scale)
        return norm

    def _shapes(self, group: dist.ProcessGroup | None) -> dict[Kind, dict[nn.Parameter, torch.Size]]:
        """Shape of the union of all workers' leading slices of each parameter, by dtype and device."""
        most = max(parameter.dim() for parameter in self.parameters)
        sizes = torch.zeros(len(self.parameters), 1 + most, dtype=torch.int64)
        for row, parameter in zip(sizes, self.parameters, strict=True):
            if parameter in self.reached:
                row[: 1 + parameter.dim()] = torch.tensor([1, *self.reached[parameter].shape])
        sizes = sizes.to(self.parameters[0].device)
        dist.all_reduce(sizes, op=dist.ReduceOp.MAX, group=group)
        kinds: dict[Kind, dict[nn.Parameter, torch.Size]] = {}
        for (reached, *shape), parameter in zip(sizes.tolist(), self.parameters, strict=True):
            if reached:
                kind = (parameter.dtype, parameter.device)
                kinds.setdefault(kind, {})[parameter] = torch.Size(shape[: parameter.dim()])
        return kinds

    def _buffer(self, kind: Kind) -> torch.Tensor:
        if kind not in self._buffers:
            size = sum(p.numel() for p in self.parameters if (p.dtype, p.device) == kind)
            self._buffers[kind] = torch.empty(size, dtype=kind[0], device=kind[1])
        return self._buffers[kind]


def _union(gradients: Sequence[torch.Tensor]) -> torch.Tensor:
    """Sum of gradients of leading slices, in the shape of their union."""
    shape = [max(sizes) for sizes in zip(*(gradient.shape for gradient in gradients), strict=True)]
    widest = next((g for g in gradients if list(g.shape) == shape), None)
    total = gradients[0].new_zeros(shape) if widest is None else widest
    for gradient in gradients:
        if gradient is not widest:
            _corner(total, gradient.shape).add_(gradient)
    return total


def _fill(whole: torch.Tensor, part: torch.Tensor | None) -> None:
    """Copy a leading slice's gradient into ``whole``, with zeros elsewhere."""
    if part is None or part.shape != whole.shape:
        whole.zero_()
    if part is not None:
        _corner(whole, part.shape).copy_(part)


def _corner(tensor: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    return tensor[tuple(slice(size) for size in shape)]


def alone(group: dist.ProcessGroup | None = None) -> bool:
    """Whether this is the only worker of ``group``."""
    return not dist.is_initialized() or dist.get_world_size(group) == 1


def average(tensors: Sequence[torch.Tensor], group: dist.ProcessGroup | None = None) -> None:
    """Average contiguous tensors over workers, in buckets that are reduced concurrently.

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
