"""A strategy that trains one architecture inside a supernet, or the same network extracted."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from manynet.data import Batch
from manynet.learning.strategy import Step, Strategy
from manynet.space.search_space import Architecture


@dataclass(frozen=True)
class OnePath(Strategy):
    """Trains one path: of a supernet where an architecture is given, else of an extracted subnet."""

    arch: Architecture | None = None

    def backward(self, network: nn.Module, batch: Batch, step: Step) -> dict[str, torch.Tensor]:
        arguments = {} if self.arch is None else {"arch": self.arch}
        with step.autocast():
            loss = step.space.task.loss(network(*batch.inputs, **arguments), batch.targets, 0.0)
        torch.autograd.backward(loss)
        return {"loss": loss.detach()}
