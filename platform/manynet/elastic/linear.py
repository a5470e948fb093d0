"""Fully connected layer with elastic input and output features."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from manynet.elastic.layer import Elastic, Size, chosen, counted, input_size, leading


class Linear(Elastic, nn.Linear):
    """``torch.nn.Linear`` that can run with fewer features; arguments are the largest sizes."""

    def forward(
        self, x: torch.Tensor, out_features: Size | None = None, in_features: Size | None = None
    ) -> torch.Tensor:
        """Map ``(..., in_features)`` to ``(..., out_features)``; None means the largest output, and the input's own size.

        Raises:
            ChoiceError: for a size outside the layer, or one that is not the input's.
        """
        outs = chosen(out_features, self.out_features, "out_features")
        ins = input_size(in_features, x, -1, self.in_features, "in_features")
        rows, columns = counted(out_features, outs), counted(in_features, ins)
        sizes = {"weight": (rows, columns)} | ({} if self.bias is None else {"bias": (rows,)})
        *lead, _ = x.shape
        macs = x.numel() // ins * (rows * columns)
        if self.note(sizes, macs, input=(*lead, columns)):
            return x.new_empty(*x.shape[:-1], outs)
        bias = None if self.bias is None else leading(self.bias, (outs,))
        return F.linear(x, leading(self.weight, (outs, ins)), bias)

    def resized(self) -> None:
        self.out_features, self.in_features = self.weight.shape
