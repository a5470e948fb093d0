"""Tasks: the loss of a batch, and the metrics of a split."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn import functional as F

from manynet.data import DataError, Features, Images


class Task(ABC):
    """Turns outputs and targets into a loss for training and metrics for ranking.

    Metrics are computed from a row for each example, so that they are exact for any batch size and any
    number of workers.

    Attributes:
        metric: name of the main metric, one of ``columns``; higher is better.
        columns: name of each metric, and whether higher is better.
        ranges: smallest and largest value of metrics that have both; a bound outside is refused.
        label_smoothing: default share of the target that is spread over all classes.
    """

    metric: ClassVar[str]
    columns: ClassVar[Mapping[str, bool]]
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {}
    label_smoothing: ClassVar[float] = 0.0

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
        """Per-example values for the metrics, ``(B, k)``."""

    @abstractmethod
    def metrics(self, rows: torch.Tensor) -> dict[str, float]:
        """Metrics of a split from all its rows ``(N, k)``: a value for each of ``columns``."""

    @abstractmethod
    def check(self, features: Images | Features) -> None:
        """Raise ValueError, such as a DataError, when the task does not fit data with these features."""


@dataclass(frozen=True)
class Classification(Task):
    """One label of ``num_classes`` for each image; outputs are logits ``(B, num_classes)``."""

    num_classes: int

    metric: ClassVar[str] = "accuracy"
    columns: ClassVar[Mapping[str, bool]] = {"accuracy": True, "loss": False}
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {"accuracy": (0, 1)}
    label_smoothing: ClassVar[float] = 0.1

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

    def check(self, features: Images | Features) -> None:
        if not isinstance(features, Images):
            raise DataError("classification takes images, but got click-through data")
        if features.classes > self.num_classes:
            raise DataError(f"labels must be 0 to {self.num_classes - 1}, but got {features.classes - 1}")


@dataclass(frozen=True)
class ClickThrough(Task):
    """Whether an example is clicked: targets are 0 or 1 in float32 ``(B,)``, outputs logits ``(B,)``."""

    metric: ClassVar[str] = "auc"
    columns: ClassVar[Mapping[str, bool]] = {"auc": True, "log_loss": False}
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {"auc": (0, 1)}

    def loss(
        self, outputs: torch.Tensor, targets: torch.Tensor, label_smoothing: float = 0.0
    ) -> torch.Tensor:
        """Mean binary cross entropy; smoothing moves targets towards 1/2."""
        smooth = targets * (1 - label_smoothing) + label_smoothing / 2
        return F.binary_cross_entropy_with_logits(outputs, smooth)

    def distillation(self, outputs: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """Binary cross entropy against the teacher's probability."""
        return F.binary_cross_entropy_with_logits(outputs, teacher.sigmoid())

    def rows(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Logit and label of each example: ``(B, 2)`` float64."""
        return torch.stack([outputs.double(), targets.double()], dim=1)

    def metrics(self, rows: torch.Tensor) -> dict[str, float]:
        """Area under the ROC curve ``auc``, where ties count half, and mean ``log_loss``.

        Raises:
            DataError: if the examples are all clicked, or none is: neither can be ranked.
        """
        # Slow to import, and every worker imports this module.
        from sklearn.metrics import roc_auc_score

        logits, labels = rows.unbind(1)
        clicked = int(labels.sum())
        if not 0 < clicked < len(labels):
            raise DataError(
                f"AUC needs examples of both labels, but {clicked} of the {len(labels)} scored are clicked"
            )
        if not logits.isfinite().all():
            return dict.fromkeys(self.columns, math.nan)  # as any diverged network's loss is
        # The softplus of the logit's wrong side: the probability itself would round to 0 or 1.
        loss = F.softplus(logits * (1 - 2 * labels), threshold=50).mean()
        return {"auc": float(roc_auc_score(labels.numpy(), logits.numpy())), "log_loss": float(loss)}

    def check(self, features: Images | Features) -> None:
        if isinstance(features, Images):
            raise DataError("click-through prediction takes dense and categorical features, but got images")
