"""Objectives of differentiable search: each combines loss and cost into the value to minimise."""

from __future__ import annotations

import torch


def absolute(loss: torch.Tensor, cost: torch.Tensor, target: float, strength: float) -> torch.Tensor:
    """``loss + strength * |cost / target - 1|``: hits a target in one search (TuNAS, arXiv 2008.06120)."""
    return loss + strength * (cost / target - 1).abs()


def additive(loss: torch.Tensor, cost: torch.Tensor, target: float, strength: float) -> torch.Tensor:
    """``loss + strength * log(cost / target)``: a price for every percent (FP-NAS, arXiv 2011.10949)."""
    return loss + strength * (cost / target).log()


def multiplied(loss: torch.Tensor, cost: torch.Tensor, target: float, strength: float) -> torch.Tensor:
    """``loss * (1 + log(1 + cost / target)) ** strength``, after FBNet's product (arXiv 1812.03443).

    FBNet multiplies by a power of the logarithm of the cost in its own unit, which is negative below one. Here the
    logarithm is of 1 + cost / target, so that the factor rises with cost everywhere.
    """
    return loss * (1 + torch.log1p(cost / target)) ** strength
