"""Two-dimensional convolution with elastic channels and kernel, full or depthwise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from manynet.elastic.count import product
from manynet.elastic.layer import (
    ChoiceError,
    Elastic,
    Size,
    chosen,
    counted,
    decided,
    input_size,
    leading,
)
from manynet.elastic.recorder import Use
from manynet.elastic.soft import Soft


class Conv2d(Elastic, nn.Conv2d):
    """``torch.nn.Conv2d`` that can run with fewer channels and a smaller kernel; arguments are the largest sizes.

    A smaller kernel is the middle of the largest, as in Once-for-All (arXiv 1908.09791), and padding shrinks with
    it so that the output keeps its size. With ``groups == in_channels == out_channels`` it is depthwise: the
    output then has the input's number of channels.

    Raises:
        ChoiceError: for groups that are neither 1 nor depthwise, or a padding mode other than zeros.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int | tuple[int, int], **options: Any
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, **options)
        if self.groups not in (1, in_channels) or (self.groups > 1 and in_channels != out_channels):
            raise ChoiceError(
                f"groups must be 1, or equal in_channels and out_channels (depthwise), but got groups={self.groups}, "
                f"in_channels={in_channels}, out_channels={out_channels}"
            )
        if self.padding_mode != "zeros":
            raise ChoiceError(f"padding_mode must be 'zeros', but got {self.padding_mode!r}")
        self.depthwise = self.groups > 1

    def forward(
        self,
        x: torch.Tensor,
        out_channels: Size | None = None,
        in_channels: Size | None = None,
        kernel_size: Size | None = None,
    ) -> torch.Tensor:
        """Map ``(B, in_channels, H, W)`` to ``(B, out_channels, H', W')``.

        None means the largest output and kernel, and the input's own size. A soft choice of the kernel masks
        its rim; one of the output is masked by the normalisation that follows.

        Raises:
            ChoiceError: for a size outside the layer, one that is not the input's, a kernel that is not the
                middle of the largest, or, in a depthwise layer, different numbers of input and output channels.
        """
        ins = input_size(in_channels, x, 1, self.in_channels, "in_channels")
        outs = (
            ins
            if self.depthwise and out_channels is None
            else chosen(out_channels, self.out_channels, "out_channels")
        )
        if self.depthwise and outs != ins:
            raise ChoiceError(
                f"out_channels of a depthwise convolution must be in_channels, {ins}, but got {outs}"
            )
        kernel = self._kernel(kernel_size)
        # A depthwise layer has as many output as input channels, decided or not.
        rows = counted(in_channels if self.depthwise else out_channels, outs)
        columns = 1 if self.depthwise else counted(in_channels, ins)
        batch, _, *side = x.shape
        height, width = counted(kernel_size, kernel[0]), counted(kernel_size, kernel[1])
        sizes = {"weight": (rows, columns, height, width)} | ({} if self.bias is None else {"bias": (rows,)})
        padding = self._padding(kernel)
        pixels = self._output_size(x, kernel, padding)
        macs = batch * pixels[0] * pixels[1] * product(rows, columns, height, width)
        if self.note(sizes, macs, input=(batch, rows if self.depthwise else columns, *side)):
            return x.new_empty(batch, outs, *pixels)
        weight = _middle(leading(self.weight, (outs, 1 if self.depthwise else ins)), kernel)
        if isinstance(kernel_size, Soft):
            weight = weight * _rim_mask(kernel_size, kernel[0])
        bias = None if self.bias is None else leading(self.bias, (outs,))
        groups = ins if self.depthwise else 1
        return F.conv2d(x, weight, bias, self.stride, padding, self.dilation, groups)

    def _kernel(self, choice: Size | None) -> tuple[int, int]:
        """Height and width of the kernel used."""
        height, width = self.weight.shape[2:]
        if choice is None:
            return height, width
        options = choice.values if isinstance(choice, Soft) else (choice,)
        sizes = [chosen(option, min(height, width), "kernel_size") for option in options]
        wrong = [size for size in sizes if height != width or (height - size) % 2]
        if wrong:
            raise ChoiceError(
                f"kernel_size must leave an equal rim of the largest kernel, {height} x {width}, but got {wrong[0]}"
            )
        return max(sizes), max(sizes)

    def _padding(self, kernel: tuple[int, int]) -> str | tuple[int, int]:
        if isinstance(self.padding, str):
            return self.padding
        height, width = (
            self.padding[d] - self.dilation[d] * (self.kernel_size[d] - kernel[d]) // 2 for d in (0, 1)
        )
        return height, width

    def _output_size(
        self, x: torch.Tensor, kernel: tuple[int, int], padding: str | tuple[int, int]
    ) -> tuple[int, int]:
        if padding == "same":
            return x.shape[2], x.shape[3]
        around = (0, 0) if isinstance(padding, str) else padding
        height, width = (
            (x.shape[2 + d] + 2 * around[d] - self.dilation[d] * (kernel[d] - 1) - 1) // self.stride[d] + 1
            for d in (0, 1)
        )
        return height, width

    def form(self, geometry: Any = None) -> str:
        parts = ["Conv2d depthwise" if self.depthwise else "Conv2d", "stride " + _sides(self.stride)]
        if self.dilation != (1, 1):
            parts.append("dilation " + _sides(self.dilation))
        if isinstance(self.padding, str):
            return " ".join([*parts, "padding", self.padding])
        # Padding shrinks with the kernel: its difference from half the kernel is the same for all kernels.
        beyond = [
            p - d * (k - 1) // 2
            for p, d, k in zip(self.padding, self.dilation, self.kernel_size, strict=True)
        ]
        return " ".join([*parts, "padding half the kernel", _sides(beyond)] if any(beyond) else parts)

    def narrowed(self, uses: Sequence[Use]) -> Mapping[str, torch.Tensor]:
        sizes = decided(uses)
        rows, columns, height, width = sizes["weight"]
        weight = _middle(leading(self.weight, (rows, columns)), (height, width))
        return {"weight": weight} | (
            {"bias": leading(self.bias, sizes["bias"])} if self.bias is not None else {}
        )

    def resized(self) -> None:
        kernel = self.weight.shape[2], self.weight.shape[3]
        self.out_channels = self.weight.shape[0]
        self.in_channels = self.out_channels if self.depthwise else self.weight.shape[1]
        self.groups = self.in_channels if self.depthwise else 1
        self.padding = self._padding(kernel)
        self.kernel_size = kernel


def _sides(pair: Sequence[int]) -> str:
    return "x".join(map(str, pair))


def _middle(weight: torch.Tensor, kernel: tuple[int, int]) -> torch.Tensor:
    """The middle ``(out, in, *kernel)`` of kernels ``(out, in, H, W)``."""
    for dim, size in zip((2, 3), kernel, strict=True):
        rim = (weight.shape[dim] - size) // 2
        if rim:
            weight = weight.narrow(dim, rim, size)
    return weight


def _rim_mask(choice: Soft, size: int) -> torch.Tensor:
    """Mask ``(size, size)`` of the largest kernel: for each position, the summed weights of kernels that cover it."""
    side = torch.arange(size) - (size - 1) / 2
    reach = 2 * torch.maximum(side[:, None].abs(), side.abs()) + 1
    weights = choice.weights
    covered = reach <= torch.tensor(choice.values)[:, None, None]
    return (weights @ covered.flatten(1).to(weights)).view(size, size)
