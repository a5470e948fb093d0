"""The sandwich rule with in-place distillation: each step trains the largest, the smallest and random subnets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import nn

from manynet.data import Batch
from manynet.learning.strategy import Step, Strategy
from manynet.space.evaluation import fit


@final
@dataclass(frozen=True)
class Sandwich(Strategy):
    """Trains the largest subnet, the smallest and some random ones in every step.

    The largest learns from the labels, the others from the labels and, increasingly, from its soft outputs
    of the same step (Yu and Huang, Universally Slimmable Networks, arXiv 1903.05134; Yu et al., BigNAS,
    arXiv 2003.11142). The weight of distillation rises linearly over the run: an untrained largest subnet
    would teach the others, and through shared weights itself, constant outputs. A step's loss is the mean
    over its passes, not the sum, so that gradient clipping acts as for one network.

    Args:
        samples: random subnets a step, besides the largest and the smallest.
        distill: whether the others also learn from the largest; otherwise from the labels alone.
    """

    samples: int = 2
    distill: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.samples, bool) or not isinstance(self.samples, int) or self.samples < 0:
            raise ValueError(f"samples must be an integer of at least 0, but got {self.samples!r}")

    def backward(self, network: nn.Module, batch: Batch, step: Step) -> dict[str, torch.Tensor]:
        space, share = step.space, 1 / (2 + self.samples)
        with step.autocast():
            outputs = network(*fit(batch.inputs, space, space.largest), arch=space.largest)
            loss = space.task.loss(outputs, batch.targets, step.label_smoothing)
        torch.autograd.backward(share * step.regularised(loss))
        teacher = outputs.detach()
        weight = step.number / step.total if self.distill else 0.0
        total = share * loss.detach()
        for arch in [space.smallest, *(space.draw(step.random) for _ in range(self.samples))]:
            with step.autocast():
                outputs = network(*fit(batch.inputs, space, arch), arch=arch)
                other = (1 - weight) * space.task.loss(outputs, batch.targets, step.label_smoothing)
                if weight:
                    other = other + weight * space.task.distillation(outputs, teacher)
            torch.autograd.backward(share * step.regularised(other))
            total = total + share * other.detach()
        return {"loss": total, "largest/loss": loss.detach()}
