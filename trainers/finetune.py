"""Training of one extracted subnet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, cast, final

import torch
from torch import nn

from manynet.data import Batch
from manynet.learning.strategy import Step, Strategy
from manynet.space.evaluation import fit
from manynet.space.subnet import Subnet


@final
@dataclass(frozen=True)
class FineTune(Strategy):
    """Trains a subnet on the labels, from shared or from random weights."""

    trains: ClassVar[Literal["supernet", "subnet"]] = "subnet"

    def backward(self, network: nn.Module, batch: Batch, step: Step) -> dict[str, torch.Tensor]:
        subnet = cast(Subnet, network)
        with step.autocast():
            outputs = subnet(*fit(batch.inputs, step.space, subnet.arch))
            loss = step.space.task.loss(outputs, batch.targets, step.label_smoothing)
        torch.autograd.backward(step.regularised(loss))
        return {"loss": loss.detach()}
