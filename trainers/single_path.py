"""Single-path one-shot training."""

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
class SinglePath(Strategy):
    """Trains one subnet a step, drawn from the space (Guo et al., Single Path One-Shot, arXiv 1904.00420)."""

    def backward(self, network: nn.Module, batch: Batch, step: Step) -> dict[str, torch.Tensor]:
        arch = step.space.draw(step.random)
        with step.autocast():
            outputs = network(*fit(batch.inputs, step.space, arch), arch=arch)
            loss = step.space.task.loss(outputs, batch.targets, step.label_smoothing)
        torch.autograd.backward(step.regularised(loss))
        return {"loss": loss.detach()}
