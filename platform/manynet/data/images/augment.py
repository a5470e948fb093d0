"""Random shifts and flips of training images."""

from __future__ import annotations

import torch
from torch import Tensor

from manynet.data.base import Batch, DataError, generator

KINDS = ("none", "shift", "shift+flip")


def augment(batch: Batch, kind: str, *, seed: int, step: int, rank: int = 0, world: int = 1) -> Batch:
    """Shift, and perhaps flip, every image of a worker's batch at random.

    Draws are made for the joint batch and a worker takes its part of them, so the number of workers changes
    nothing. An image moves by up to an eighth of its side each way, at least 1 pixel; what comes into view is
    its reflection. Inputs that are not images `(B, C, H, W)` stay as they are.

    Args:
        batch: this worker's part of the joint batch, on any device.
        kind: "none", "shift" or "shift+flip" (each image mirrored left to right with probability 1/2).
        seed: of the draws, together with `step`.
        step: which joint batch this is.
        rank: which worker this is.
        world: how many workers share the joint batch, in equal parts.

    Raises:
        DataError: for another `kind`.
    """
    if kind not in KINDS:
        raise DataError(f"augment must be one of ({', '.join(KINDS)}), but got {kind!r}")
    if kind == "none":
        return batch
    count = len(batch.targets)
    # Three numbers an example, drawn also when there is no flip: both kinds then shift alike.
    draws = generator("augment", seed, step).random((count * world, 3))
    mine = torch.from_numpy(draws[rank * count : (rank + 1) * count])
    flip = kind == "shift+flip"
    return batch._replace(inputs=tuple(_move(x, mine, flip) if x.dim() == 4 else x for x in batch.inputs))


def _move(images: Tensor, draws: Tensor, flip: bool) -> Tensor:
    rows = _sources(images.shape[2], draws[:, 0])
    columns = _sources(images.shape[3], draws[:, 1])
    if flip:
        columns = torch.where(draws[:, 2:] < 0.5, columns.flip(1), columns)
    rows, columns = rows.to(images.device), columns.to(images.device)
    moved = images.gather(2, rows[:, None, :, None].expand(-1, images.shape[1], -1, images.shape[3]))
    return moved.gather(3, columns[:, None, None, :].expand_as(images))


def _sources(side: int, draws: Tensor) -> Tensor:
    """For each image, which pixel each of its `side` pixels comes from: `(B, side)`."""
    reach = min(max(1, side // 8), side - 1)
    shift = (draws * (2 * reach + 1)).long() - reach
    places = (torch.arange(side) + shift[:, None]).abs()
    return torch.where(places < side, places, 2 * (side - 1) - places)
