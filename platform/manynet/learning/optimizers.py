"""Optimizers for gradients of the leading slices that a step used."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, final

import torch
from torch import nn

from manynet.config.settings import TrainSettings
from manynet.elastic import Parameter, PositionEmbedding
from manynet.elastic.layer import leading

ADAGRAD_EPS = 1e-2
"""Adagrad's epsilon in NASRec (arXiv 2207.07187)."""

Gradients = Mapping[nn.Parameter, torch.Tensor]
"""Gradients of the leading slices that a step used; everything else has none."""


class Optimizer(ABC):
    """Applies the gradients of one step.

    Attributes:
        sliced: whether it accepts gradients of slices.
    """

    sliced: ClassVar[bool]

    @abstractmethod
    def step(self, gradients: Gradients, rate: float) -> None:
        """Update the parameters in ``gradients`` with learning rate ``rate``."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values that a checkpoint must hold."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the result of :meth:`state_dict`."""


@final
class AdamW(Optimizer):
    """``torch.optim.AdamW`` (arXiv 1711.05101); parameters without a gradient are unchanged.

    Its moments change also where a gradient is zero, so it takes gradients of whole parameters.

    Attributes:
        param_groups: parameters with weight decay, and those without.
    """

    sliced = False

    def __init__(self, network: nn.Module, trained: Sequence[nn.Parameter], weight_decay: float) -> None:
        positions = {
            id(p)
            for m in network.modules()
            if isinstance(m, Parameter | PositionEmbedding)
            for p in m.parameters()
        }
        self._parameters = list(trained)
        # No weight decay for norms, biases and tokens: it would not usefully bound their scale.
        decayed = [p for p in self._parameters if p.ndim > 1 and id(p) not in positions]
        others = [p for p in self._parameters if p.ndim <= 1 or id(p) in positions]
        groups: list[dict[str, Any]] = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
        fused = all(p.device.type in ("cpu", "cuda") for p in self._parameters)
        self._optimizer = torch.optim.AdamW(groups, weight_decay=weight_decay, fused=fused)
        self.param_groups = self._optimizer.param_groups

    def step(self, gradients: Gradients, rate: float) -> None:
        for parameter in self._parameters:
            parameter.grad = gradients.get(parameter)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        return self._optimizer.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._optimizer.load_state_dict(dict(state))


@final
class Adagrad(Optimizer):
    """Adagrad (Duchi et al., JMLR 12, 2011) on the slices that a step used.

    Adagrad changes nothing where a gradient is zero, so this equals ``torch.optim.Adagrad`` on zero-padded
    gradients exactly.
    """

    sliced = True

    def __init__(self, trained: Sequence[nn.Parameter]) -> None:
        self._trained = list(trained)
        # Created when a parameter is first used: the rest of a large supernet needs no memory yet.
        self._sums: dict[nn.Parameter, torch.Tensor] = {}

    @torch.no_grad()
    def step(self, gradients: Gradients, rate: float) -> None:
        for parameter in gradients:
            if parameter not in self._sums:
                self._sums[parameter] = torch.zeros_like(parameter)
        reached = [leading(parameter, gradient.shape) for parameter, gradient in gradients.items()]
        sums = [leading(self._sums[parameter], gradient.shape) for parameter, gradient in gradients.items()]
        grads = list(gradients.values())
        torch._foreach_addcmul_(sums, grads, grads)
        scales = torch._foreach_sqrt(sums)
        torch._foreach_add_(scales, ADAGRAD_EPS)
        torch._foreach_addcdiv_(reached, grads, scales, -rate)

    def state_dict(self) -> dict[str, Any]:
        return {"sums": {i: self._sums[p] for i, p in enumerate(self._trained) if p in self._sums}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._sums = {self._trained[i]: saved.to(self._trained[i]) for i, saved in state["sums"].items()}


def optimizer(settings: TrainSettings, network: nn.Module, trained: Sequence[nn.Parameter]) -> Optimizer:
    """Create the optimizer that ``settings`` name.

    Args:
        settings: of the training.
        network: the network of the parameters.
        trained: parameters to train; checkpoints identify them by this order.
    """
    if settings.optimizer == "adagrad":
        return Adagrad(trained)
    return AdamW(network, trained, settings.weight_decay)
