"""What a batch means: the loss, and the metrics of a split."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch.nn import functional as F


class Task(ABC):
    """Turns outputs and targets into a loss for training and metrics for ranking.

    Metrics are computed from rows kept of every example, so that they are exact whatever the batch
    size and however many workers scored a part of the split.
    """

    @abstractmethod
    def loss(
        self, outputs: torch.Tensor, targets: torch.Tensor, label_smoothing: float = 0.0
    ) -> torch.Tensor:
        """Mean loss of a batch, a scalar."""

    @abstractmethod
    def distillation(self, outputs: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """Mean loss of a batch against a teacher's outputs of the same shape, a scalar."""

    @abstractmethod
    def rows(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """What metrics need of each example, ``(B, k)``."""

    @abstractmethod
    def metrics(self, rows: torch.Tensor) -> dict[str, float]:
        """Metrics of a split from all its rows ``(N, k)``."""

    @abstractmethod
    def check_labels(self, classes: int) -> None:
        """Raise ValueError when data with labels 0 to ``classes - 1`` cannot be learnt."""


@dataclass(frozen=True)
class Classification(Task):
    """One label of ``num_classes`` for each example; outputs are logits ``(B, num_classes)``."""

    num_classes: int

    def loss(
        self, outputs: torch.Tensor, targets: torch.Tensor, label_smoothing: float = 0.0
    ) -> torch.Tensor:
        return F.cross_entropy(outputs, targets, label_smoothing=label_smoothing)

    def distillation(self, outputs: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """Cross entropy against the teacher's soft labels (Hinton et al., arXiv 1503.02531)."""
        return F.cross_entropy(outputs, teacher.softmax(-1))

    def rows(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Whether each example is right, and its loss: ``(B, 2)``."""
        correct = (outputs.argmax(-1) == targets).to(torch.float64)
        loss = F.cross_entropy(outputs.double(), targets, reduction="none")
        return torch.stack([correct, loss], dim=1)

    def metrics(self, rows: torch.Tensor) -> dict[str, float]:
        """``accuracy`` from 0 to 1, and mean ``loss``."""
        accuracy, loss = rows.mean(0).tolist()
        return {"accuracy": accuracy, "loss": loss}

    def check_labels(self, classes: int) -> None:
        if classes > self.num_classes:
            raise ValueError(f"labels must be 0 to {self.num_classes - 1}, but got {classes - 1}")
