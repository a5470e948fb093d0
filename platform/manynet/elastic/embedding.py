"""Patch and position embeddings of images at any patch size and grid, and bare elastic parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from manynet.elastic.layer import ChoiceError, Elastic, chosen, decided, input_size, leading
from manynet.elastic.recorder import Use

_STRIDE_RULE = "stride must divide the image's sides less the patch size of {}"


class Parameter(Elastic):
    """A bare parameter (a class token, a scale); calls return a leading slice of every dimension.

    Args:
        data: ``(S_1, ..., S_n)``, the largest value.
    """

    def __init__(self, data: torch.Tensor) -> None:
        super().__init__()
        self.data = nn.Parameter(data)

    def forward(self, *sizes: int | None) -> torch.Tensor:
        """The leading ``sizes``; None, or a missing size, means the whole dimension.

        Raises:
            ChoiceError: for a size outside the parameter, or more sizes than dimensions.
        """
        if len(sizes) > self.data.dim():
            raise ChoiceError(f"at most {self.data.dim()} sizes can be chosen, but got {len(sizes)}")
        shape = tuple(chosen(s, self.data.shape[d], f"size {d}") for d, s in enumerate(sizes))
        shape += tuple(self.data.shape[len(shape) :])
        self.note({"data": shape}, input=())
        return leading(self.data, shape)


class PatchEmbedding(Elastic):
    """Images to tokens, with elastic width, patch size and stride.

    One kernel is stored. Other patch sizes resample it by the pseudo-inverse of bilinear resizing, so that
    a resized image gives nearly the same tokens: FlexiViT (arXiv 2212.08013).

    Args:
        in_channels: channels of the image.
        width: largest width of a token.
        patch_size: side of the stored kernel, in pixels.
    """

    def __init__(self, in_channels: int, width: int, patch_size: int) -> None:
        super().__init__()
        stem = nn.Conv2d(in_channels, width, patch_size)
        assert stem.bias is not None
        self.weight, self.bias = stem.weight, stem.bias

    @property
    def patch_size(self) -> int:
        """Side of the stored kernel, in pixels."""
        return self.weight.shape[-1]

    def forward(
        self,
        x: torch.Tensor,
        width: int | None = None,
        patch_size: int | None = None,
        stride: int | None = None,
    ) -> torch.Tensor:
        """Map images ``(B, C, H, W)`` to tokens ``(B, h * w, width)``, with ``h = (H - patch_size) / stride + 1``.

        A stride, in pixels, below the patch size lets patches overlap; None is the patch size.

        Raises:
            ChoiceError: for a width outside the layer, a wrong number of channels, sides that ``patch_size``
                does not divide, or sides less the patch size that ``stride`` does not divide.
        """
        input_size(None, x, 1, self.weight.shape[1], "in_channels")
        size = self.patch_size if patch_size is None else patch_size
        step = size if stride is None else stride
        wide = chosen(width, self.weight.shape[0], "width")
        batch, channels, *sides = x.shape
        if any(side < size or (side - size) % step for side in sides):
            rule = "patch_size must divide the image's sides" if stride is None else _STRIDE_RULE.format(size)
            raise ChoiceError(f"{rule}, {sides[0]} and {sides[1]}, but got {step}")
        tokens = math.prod((side - size) // step + 1 for side in sides)
        macs = batch * tokens * wide * channels * size * size
        sizes = {"weight": (wide,), "bias": (wide,)}
        if self.note(sizes, macs, geometry=(size, step), input=(batch, channels, *sides)):
            return x.new_empty(batch, tokens, wide)
        weight = resample_kernel(leading(self.weight, (wide,)), size)
        grid: torch.Tensor = F.conv2d(x, weight, leading(self.bias, (wide,)), stride=step)
        return grid.flatten(2).transpose(1, 2)

    def form(self, geometry: Any = None) -> str:
        size, step = geometry
        return f"PatchEmbedding patch {size}x{size} stride {step}x{step}"

    def example(
        self, shape: tuple[int, ...], geometry: Any = None
    ) -> tuple[tuple[torch.Tensor, ...], Mapping[str, Any]]:
        size, step = geometry
        return (torch.randn(shape),), {} if step == size else {"stride": step}

    def narrowed(self, uses: Sequence[Use]) -> Mapping[str, torch.Tensor]:
        narrow = dict(super().narrowed(uses))
        patch_sizes = {use.geometry[0] for use in uses}  # type: ignore[index]
        if len(patch_sizes) == 1:
            narrow["weight"] = resample_kernel(narrow["weight"], *patch_sizes)
        return narrow


def resample_kernel(weight: torch.Tensor, size: int) -> torch.Tensor:
    """Resample kernels ``(out, in, P, P)`` to ``(out, in, size, size)``; see :class:`PatchEmbedding`."""
    stored = weight.shape[-1]
    if stored == size:
        return weight
    # Bilinear resizing is separable, and so is its pseudo-inverse: one dimension at a time costs a tenth.
    resize = _resampling(stored, size).to(weight)
    resampled: torch.Tensor = resize @ weight @ resize.T
    return resampled


@lru_cache(maxsize=64)
def _resampling(stored: int, size: int) -> torch.Tensor:
    """Pseudo-inverse of (the transpose of) resizing one side from ``stored`` to ``size``: ``(size, stored)``."""
    with torch.device("cpu"):
        side = torch.eye(stored, dtype=torch.float64)
        resized = F.interpolate(side[None, None], (size, stored), mode="bilinear", antialias=True)[0, 0]
        matrix: torch.Tensor = torch.linalg.pinv(resized.T)
        return matrix.float()


class PositionEmbedding(Elastic):
    """Learned position embedding of a square grid of patches, interpolated to other grids.

    Interpolation is bicubic, as in DeiT (arXiv 2012.12877). Tokens before the grid (a class token) have
    positions of their own, which are not interpolated.

    Args:
        width: largest width of a token.
        grid: patches along a side of the stored grid.
        prefix_tokens: tokens before those of the grid.
    """

    def __init__(self, width: int, grid: int, prefix_tokens: int = 0) -> None:
        super().__init__()
        self.prefix_tokens = prefix_tokens
        self.weight = nn.Parameter(torch.zeros(1, prefix_tokens + grid * grid, width))
        nn.init.trunc_normal_(self.weight, std=0.02)

    @property
    def grid(self) -> int:
        """Patches along a side of the stored grid."""
        return math.isqrt(self.weight.shape[1] - self.prefix_tokens)

    def forward(self, grid: int | None = None, width: int | None = None) -> torch.Tensor:
        """Positions ``(1, prefix_tokens + grid * grid, width)``.

        Raises:
            ChoiceError: for a width outside the layer.
        """
        side = self.grid if grid is None else grid
        wide = chosen(width, self.weight.shape[2], "width")
        sizes = (1, self.weight.shape[1], wide)
        if self.note({"weight": sizes}, geometry=side, input=()):
            return self.weight.new_empty(1, self.prefix_tokens + side * side, wide)
        return self._interpolated(leading(self.weight, sizes), side)

    def narrowed(self, uses: Sequence[Use]) -> Mapping[str, torch.Tensor]:
        weight = leading(self.weight, decided(uses)["weight"])
        grids = {use.geometry for use in uses}
        return {"weight": self._interpolated(weight, *grids) if len(grids) == 1 else weight}  # type: ignore[arg-type]

    def _interpolated(self, weight: torch.Tensor, side: int) -> torch.Tensor:
        stored, prefix = self.grid, self.prefix_tokens
        if side == stored:
            return weight
        if weight.is_meta:
            return weight.new_empty(1, prefix + side * side, weight.shape[2])
        image = weight[:, prefix:].transpose(1, 2).reshape(1, -1, stored, stored)
        resized = F.interpolate(image, (side, side), mode="bicubic", align_corners=False)
        return torch.cat([weight[:, :prefix], resized.flatten(2).transpose(1, 2)], dim=1)
