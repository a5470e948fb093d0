"""Normalisation with elastic width."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from manynet.elastic.layer import ChoiceError, Elastic, input_size, leading


class BatchNorm2d(Elastic, nn.BatchNorm2d):
    """``torch.nn.BatchNorm2d`` over fewer channels than it has.

    All widths share running statistics that fit none of them exactly; score a subnet with statistics
    recalibrated on its extracted copy (:func:`manynet.evaluation.recalibrate`).
    """

    def forward(self, x: torch.Tensor, num_features: int | None = None) -> torch.Tensor:
        """Normalise ``(B, num_features, H, W)``.

        Raises:
            ChoiceError: for a size outside the layer, or one that is not the input's.
        """
        size = input_size(num_features, x, 1, self.num_features, "num_features")
        tensors = {
            name: tensor
            for name in ("weight", "bias", "running_mean", "running_var")
            if (tensor := getattr(self, name)) is not None
        }
        if self.note({name: (size,) for name in tensors}):
            return x.new_empty(x.shape)
        parts = {name: leading(tensor, (size,)) for name, tensor in tensors.items()}
        return F.batch_norm(
            x,
            parts.get("running_mean"),
            parts.get("running_var"),
            parts.get("weight"),
            parts.get("bias"),
            self.training or "running_mean" not in parts,
            self._average_factor(),
            self.eps,
        )

    def _average_factor(self) -> float:
        if not (self.training and self.track_running_stats):
            return 0.0
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        return 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum

    def resized(self) -> None:
        for name in ("weight", "running_mean"):
            if getattr(self, name) is not None:
                self.num_features = self.get_tensor(name).shape[0]


class LayerNorm(Elastic, nn.LayerNorm):
    """``torch.nn.LayerNorm`` over a last dimension narrower than its own.

    Raises:
        ChoiceError: for a normalised shape of more than one dimension.
    """

    def __init__(self, normalized_shape: int, eps: float = 1e-6, bias: bool = True) -> None:
        if not isinstance(normalized_shape, int):
            raise ChoiceError(f"normalized_shape must be one integer, but got {normalized_shape!r}")
        super().__init__(normalized_shape, eps=eps, bias=bias)

    def forward(self, x: torch.Tensor, width: int | None = None) -> torch.Tensor:
        """Normalise ``(..., width)``.

        Raises:
            ChoiceError: for a size outside the layer, or one that is not the input's.
        """
        size = input_size(width, x, -1, self.weight.shape[0], "width")
        sizes = {"weight": (size,)} if self.bias is None else {"weight": (size,), "bias": (size,)}
        if self.note(sizes):
            return x.new_empty(x.shape)
        bias = None if self.bias is None else leading(self.bias, (size,))
        return F.layer_norm(x, (size,), leading(self.weight, (size,)), bias, self.eps)

    def resized(self) -> None:
        self.normalized_shape = tuple(self.weight.shape)
