"""A choice between resolutions inside a network (FBNetV2, arXiv 2004.05565, section 3.3)."""

from __future__ import annotations

from collections.abc import Callable

import torch

from manynet.elastic.control import weighted
from manynet.elastic.layer import ChoiceError, Size
from manynet.elastic.soft import Soft


def at_resolution(
    operation: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, resolution: Size
) -> torch.Tensor:
    """Run ``operation`` on ``x`` subsampled to a side of ``resolution`` pixels.

    Output pixels are scattered to their positions in ``x``, with zeros between, so that a sum over resolutions is
    aligned. The operation itself sees no zeros: its receptive field is that of the subsampled image. Outputs without
    pixels, such as logits, are unchanged. A soft choice sums over its options by weight, and stores the activations
    of all for the backward pass; to use the memory of one only, draw a decided resolution.

    Args:
        operation: maps ``(B, C, h, h)`` of any side to features ``(B, C', h', h')``, or to ``(B, ...)`` of
            another number of dimensions.
        x: ``(B, C, H, H)``.
        resolution: at most ``H``.

    Raises:
        ChoiceError: for a resolution above that of ``x``.
    """
    if not isinstance(resolution, Soft):
        return scattered(operation(subsampled(x, resolution)), resolution, x.shape[-1])
    return weighted(resolution, lambda size: at_resolution(operation, x, size))


def subsampled(x: torch.Tensor, size: int) -> torch.Tensor:
    """Nearest neighbours of ``(B, C, H, H)`` on a grid of ``size`` by ``size``."""
    side = x.shape[-1]
    if size > side:
        raise ChoiceError(f"resolution must be at most the input's, {side}, but got {size}")
    if size == side:
        return x
    positions = _positions(size, side, x.device)
    return x.index_select(2, positions).index_select(3, positions)


def scattered(y: torch.Tensor, size: int, side: int) -> torch.Tensor:
    """Scatter features ``(B, C, h, h)`` of an image subsampled from ``side`` to ``size``, with zeros between."""
    if size == side or y.dim() != 4:
        return y
    whole = -(-y.shape[-1] * side // size)
    positions = _positions(y.shape[-1], whole, y.device)
    full = y.new_zeros(*y.shape[:2], whole, whole)
    full[:, :, positions[:, None], positions] = y
    return full


def _positions(size: int, side: int, device: torch.device) -> torch.Tensor:
    return torch.arange(size, device=device) * side // size
