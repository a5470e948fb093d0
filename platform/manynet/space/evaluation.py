"""Scores a subnet on a split, independently of earlier scores."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from manynet.data import Batch, Split
from manynet.errors import ManynetError
from manynet.space.search_space import Architecture, SearchSpace
from manynet.space.subnet import Subnet

Inputs = tuple[torch.Tensor, ...]
Network = TypeVar("Network", bound=nn.Module)


class InputError(ManynetError, ValueError):
    """Data does not have the shapes of a space's inputs."""


def fit(inputs: Inputs, space: SearchSpace, arch: Architecture) -> Inputs:
    """Resize a batch's images to the resolution of ``arch``, and check all shapes.

    Args:
        inputs: tensors, batch first; images ``(B, C, H, W)``.

    Raises:
        InputError: when shapes differ in more than the height and width of an image.
    """
    expected = space.inputs(arch)
    if len(expected) != len(inputs):
        raise InputError(
            f"the space takes {len(expected)} inputs ({', '.join(expected)}), but got {len(inputs)}"
        )
    return tuple(_fit(name, x, shape) for x, (name, (shape, _)) in zip(inputs, expected.items(), strict=True))


def _fit(name: str, x: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    if tuple(x.shape[1:]) == shape:
        return x
    if x.dim() != 4 or len(shape) != 3 or x.shape[1] != shape[0]:
        raise InputError(f"{name} must have shape {shape}, but got {tuple(x.shape[1:])}")
    return F.interpolate(x, shape[1:], mode="bilinear", antialias=True, align_corners=False)


def recalibrated(network: Network, batches: Sequence[Inputs]) -> Network:
    """A copy of ``network`` with batch-norm statistics recomputed on ``batches``.

    Shared running statistics fit no subnet: "Universally Slimmable Networks" (arXiv 1903.05134).
    Without batch norm, or without batches, the network itself is returned.
    """
    if not batches or not has_batch_norm(network):
        return network
    fresh = copy.deepcopy(network).eval()
    pairs = [
        (copied, original)
        for copied, original in zip(fresh.modules(), network.modules(), strict=True)
        if isinstance(copied, _BatchNorm) and isinstance(original, _BatchNorm)
    ]
    for copied, _ in pairs:
        copied.train().reset_running_stats()
        copied.momentum = None  # the plain average over all batches
    with torch.no_grad():
        for batch in batches:
            fresh(*batch)
    for copied, original in pairs:
        copied.momentum = original.momentum
    return fresh.eval()


def calibrated(subnet: Subnet, space: SearchSpace, batches: Sequence[Inputs]) -> Subnet:
    """:func:`recalibrated` for a subnet, with inputs of any resolution on any device."""
    if not has_batch_norm(subnet):
        return subnet
    device = next(iter(subnet.parameters())).device
    return recalibrated(subnet, [_to(fit(batch, space, subnet.arch), device) for batch in batches])


def has_batch_norm(network: nn.Module) -> bool:
    """Whether the network has batch-norm layers."""
    return any(isinstance(module, _BatchNorm) for module in network.modules())


def score(
    subnet: Subnet,
    space: SearchSpace,
    split: Split,
    *,
    batch_size: int,
    calibration: Sequence[Inputs] = (),
    limit: int | None = None,
    lease: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> dict[str, float]:
    """Metrics of a subnet on a split, as the space's task defines them.

    Args:
        subnet: is not changed.
        space: the subnet's search space.
        split: read in its fixed order.
        batch_size: examples a forward pass.
        calibration: training inputs for batch-norm recalibration, on a copy.
        limit: most examples to score.
        lease: the shared right to compute on this host, entered once a batch.
    """
    batches = split.batches(batch_size, limit=limit)
    return space.task.metrics(score_rows(subnet, space, batches, calibration=calibration, lease=lease))


def score_rows(
    subnet: Subnet,
    space: SearchSpace,
    batches: Iterable[Batch],
    *,
    calibration: Sequence[Inputs] = (),
    lease: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> torch.Tensor:
    """Per-example rows ``(N, k)`` for the task's metrics; rows of several workers are concatenated.

    Args:
        subnet: is not changed.
        space: the subnet's search space.
        batches: examples to score.
        calibration: as :func:`score`.
        lease: as :func:`score`.
    """
    device = next(iter(subnet.parameters())).device
    ready = calibrated(subnet, space, calibration).eval()
    rows = []
    for batch in batches:
        with lease(), torch.inference_mode():
            outputs = ready(*_to(fit(batch.inputs, space, subnet.arch), device))
            rows.append(space.task.rows(outputs.float(), batch.targets.to(device)).cpu())
    return torch.cat(rows) if rows else torch.empty(0)


def _to(inputs: Inputs, device: torch.device) -> Inputs:
    return tuple(x.to(device) for x in inputs)
