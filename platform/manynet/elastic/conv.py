"""Two-dimensional convolution with elastic channels, full or depthwise."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from manynet.elastic.layer import ChoiceError, Elastic, Size, chosen, counted, input_size, leading


class Conv2d(Elastic, nn.Conv2d):
    """``torch.nn.Conv2d`` that can run with fewer channels; arguments are the largest sizes.

    With ``groups == in_channels == out_channels`` it is depthwise: its output then has the input's
    channels, however many arrive.

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
        self, x: torch.Tensor, out_channels: Size | None = None, in_channels: Size | None = None
    ) -> torch.Tensor:
        """Map ``(B, in_channels, H, W)`` to ``(B, out_channels, H', W')``.

        None is the largest for the output, the input's own size for the input.

        Raises:
            ChoiceError: for a size outside the layer, one that is not the input's, or, in a depthwise
                layer, different numbers of input and output channels.
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
        # A depthwise layer's output has what arrives, decided or not.
        rows = counted(in_channels if self.depthwise else out_channels, outs)
        columns = 1 if self.depthwise else counted(in_channels, ins)
        sizes = {"weight": (rows, columns)} | ({} if self.bias is None else {"bias": (rows,)})
        height, width = self._output_size(x)
        kernel = self.weight.shape[2] * self.weight.shape[3]
        if self.note(sizes, macs=x.shape[0] * height * width * kernel * (rows * columns)):
            return x.new_empty(x.shape[0], outs, height, width)
        bias = None if self.bias is None else leading(self.bias, (outs,))
        groups = ins if self.depthwise else 1
        weight = leading(self.weight, (outs, 1 if self.depthwise else ins))
        return F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, groups)

    def _output_size(self, x: torch.Tensor) -> tuple[int, int]:
        if self.padding == "same":
            return x.shape[2], x.shape[3]
        padding = (0, 0) if isinstance(self.padding, str) else self.padding
        height, width = (
            (x.shape[2 + d] + 2 * padding[d] - self.dilation[d] * (self.weight.shape[2 + d] - 1) - 1)
            // self.stride[d]
            + 1
            for d in (0, 1)
        )
        return height, width

    def resized(self) -> None:
        self.out_channels = self.weight.shape[0]
        self.in_channels = self.out_channels if self.depthwise else self.weight.shape[1]
        self.groups = self.in_channels if self.depthwise else 1
