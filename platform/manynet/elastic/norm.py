"""Normalisation with elastic width."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from manynet.elastic.layer import ChoiceError, Elastic, Size, counted, input_size, leading
from manynet.elastic.soft import Soft


class BatchNorm2d(Elastic, nn.BatchNorm2d):
    """``torch.nn.BatchNorm2d`` over fewer channels than it has.

    All widths share running statistics, which fit none of them exactly. Score a subnet with statistics
    recalibrated on its extracted copy (:func:`manynet.space.evaluation.recalibrated`).
    """

    def forward(self, x: torch.Tensor, num_features: Size | None = None) -> torch.Tensor:
        """Normalise ``(B, num_features, H, W)``, then mask by a soft choice.

        The mask comes after normalisation: batch statistics would cancel a scale before it, and its gradient
        with respect to the choice's weights.

        Raises:
            ChoiceError: for a size outside the layer, or one that is not the input's.
        """
        size = input_size(num_features, x, 1, self.num_features, "num_features")
        tensors = {
            name: tensor
            for name in ("weight", "bias", "running_mean", "running_var")
            if (tensor := getattr(self, name)) is not None
        }
        width = counted(num_features, size)
        batch, _, *side = x.shape
        if self.note({name: (width,) for name in tensors}, input=(batch, width, *side)):
            return x.new_empty(x.shape)
        parts = {name: leading(tensor, (size,)) for name, tensor in tensors.items()}
        if isinstance(num_features, Soft):
            # Applied to scale and shift: this takes no pass over the activations, and no memory for them.
            mask = num_features.mask(size)
            parts["weight"] = parts["weight"] * mask if "weight" in parts else mask
            parts["bias"] = parts["bias"] * mask if "bias" in parts else torch.zeros_like(mask)
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

    def forward(self, x: torch.Tensor, width: Size | None = None) -> torch.Tensor:
        """Normalise ``(..., width)``; for a soft choice, with statistics weighted by its mask, then mask.

        Raises:
            ChoiceError: for a size outside the layer, or one that is not the input's.
        """
        size = input_size(width, x, -1, self.weight.shape[0], "width")
        rows = counted(width, size)
        sizes = {"weight": (rows,)} | ({} if self.bias is None else {"bias": (rows,)})
        if self.note(sizes, input=(*x.shape[:-1], rows)):
            return x.new_empty(x.shape)
        bias = None if self.bias is None else leading(self.bias, (size,))
        if isinstance(width, Soft):
            return self._masked(x, width.mask(size), bias)
        return F.layer_norm(x, (size,), leading(self.weight, (size,)), bias, self.eps)

    def _masked(self, x: torch.Tensor, mask: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        share = mask / mask.sum()
        centred = x - (x * share).sum(-1, keepdim=True)
        normal = centred * ((centred.square() * share).sum(-1, keepdim=True) + self.eps).rsqrt()
        weight = leading(self.weight, (len(mask),)) * mask
        return normal * weight if bias is None else normal * weight + bias * mask

    def resized(self) -> None:
        self.normalized_shape = tuple(self.weight.shape)
