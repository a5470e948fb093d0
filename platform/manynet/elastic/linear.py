"""Fully connected layer with elastic input and output features."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from manynet.elastic.layer import Elastic, chosen, input_size, leading


class Linear(Elastic, nn.Linear):
    """``torch.nn.Linear`` that can run with fewer features; arguments are the largest sizes."""

    def forward(
        self, x: torch.Tensor, out_features: int | None = None, in_features: int | None = None
    ) -> torch.Tensor:
        """Map ``(..., in_features)`` to ``(..., out_features)``; None is the largest, or the input's own size.

        Raises:
            ChoiceError: for a size outside the layer, or one that is not the input's.
        """
        outs = chosen(out_features, self.out_features, "out_features")
        ins = input_size(in_features, x, -1, self.in_features, "in_features")
        sizes = {"weight": (outs, ins)} if self.bias is None else {"weight": (outs, ins), "bias": (outs,)}
        if self.note(sizes, macs=x.numel() * outs):
            return x.new_empty(*x.shape[:-1], outs)
        bias = None if self.bias is None else leading(self.bias, (outs,))
        return F.linear(x, leading(self.weight, (outs, ins)), bias)

    def resized(self) -> None:
        self.out_features, self.in_features = self.weight.shape
