"""How differentiable search pays for channel choices without masks: two conventional networks, in plain PyTorch.

Both are the network of ``search_spaces.dmasking`` with decided kernels, expansions and activations (ReLU). With one
option they are one and the same network. Of several options, outputs are filled with zeros up to the largest and
summed by Gumbel-softmax weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce
from typing import Any, final

import torch
from torch import nn
from torch.nn import functional as F

from manynet.data import Batch
from manynet.learning.strategy import Step, Strategy
from manynet.search_spaces.dmasking import DMasking, Stage


class Front(nn.Sequential):
    """Expand, and convolve each channel: an inverted residual up to its projection."""

    def __init__(self, inputs: int, inner: int, stride: int) -> None:
        super().__init__(
            nn.Conv2d(inputs, inner, 1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(),
            nn.Conv2d(inner, inner, 3, stride=stride, padding=1, groups=inner, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(),
        )


class Projection(nn.Sequential):
    """The linear end of an inverted residual."""

    def __init__(self, inner: int, outputs: int) -> None:
        super().__init__(nn.Conv2d(inner, outputs, 1, bias=False), nn.BatchNorm2d(outputs))


class SeparateBlocks(nn.Module):
    """A whole inverted residual for each option of its output channels."""

    def __init__(self, inputs: int, options: Sequence[int], inner: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.blocks = nn.ModuleList(
            nn.Sequential(Front(inputs, inner, stride), Projection(inner, channels)) for channels in options
        )

    def forward(self, x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Map ``(B, inputs, H, W)`` to ``(B, largest, H', W')``, under ``weights`` of the options, ``(options,)``."""
        parts = [block(x) for block in self.blocks]
        if self.stride == 1:
            parts = [part + fitted(x, part.shape[1]) for part in parts]
        return summed(parts, weights)


class SeparateProjections(nn.Module):
    """One front, and a projection for each option of the output channels."""

    def __init__(self, inputs: int, options: Sequence[int], inner: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.front = Front(inputs, inner, stride)
        self.projections = nn.ModuleList(Projection(inner, channels) for channels in options)

    def forward(self, x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Map ``(B, inputs, H, W)`` to ``(B, largest, H', W')``, under ``weights`` of the options, ``(options,)``."""
        y = self.front(x)
        parts = [projection(y) for projection in self.projections]
        if self.stride == 1:
            parts = [part + fitted(x, part.shape[1]) for part in parts]
        return summed(parts, weights)


def fitted(x: torch.Tensor, channels: int) -> torch.Tensor:
    """The leading ``channels`` of ``x``, or ``x`` with zeros behind."""
    return x[:, :channels] if x.shape[1] >= channels else F.pad(x, (0, 0, 0, 0, 0, channels - x.shape[1]))


def summed(parts: Sequence[torch.Tensor], weights: torch.Tensor) -> torch.Tensor:
    """Outputs of growing width, filled up to the last's and added by weight."""
    if len(parts) == 1:
        return parts[0]
    widest = parts[-1].shape[1]
    scaled = (weight * part for weight, part in zip(weights, parts, strict=True))
    return reduce(torch.add, (fitted(part, widest) for part in scaled))


class Conventional(nn.Module):
    """The network of ``search_spaces.dmasking``; arguments as there, channels in growing order."""

    def __init__(
        self,
        block: type[SeparateBlocks | SeparateProjections],
        stages: Sequence[Stage],
        stem: int,
        head: int,
        classes: int,
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, stem, 3, padding=1, bias=False), nn.BatchNorm2d(stem))
        self.blocks = nn.ModuleList()
        width = stem
        for stage in stages:
            (expansion,) = stage.expansions
            for number in range(stage.blocks):
                stride = 1 if number else stage.stride
                self.blocks.append(block(width, stage.channels, round(expansion * width), stride))
                width = stage.channels[-1]
        self.head = nn.Sequential(nn.Conv2d(width, head, 1, bias=False), nn.BatchNorm2d(head))
        self.classifier = nn.Linear(head, classes)

    def forward(self, x: torch.Tensor, weights: Sequence[torch.Tensor]) -> torch.Tensor:
        """Map images ``(B, 3, H, H)`` to logits ``(B, classes)``, under each block's weights of its options."""
        x = F.hardswish(self.stem(x))
        for block, options in zip(self.blocks, weights, strict=True):
            x = block(x, options)
        logits: torch.Tensor = self.classifier(F.hardswish(self.head(x)).mean((2, 3)))
        return logits


@torch.no_grad()
def take_shared(network: Conventional, shared: DMasking) -> None:
    """Give every option of ``network`` the weights that the options of ``shared`` have in common."""
    copies: list[tuple[Any, Any]] = [(network.stem[0], shared.stem), (network.head[0], shared.head)]
    blocks: Iterable[tuple[Any, Any]] = zip(network.blocks, shared.blocks, strict=True)
    for block, one in blocks:
        separate = isinstance(block, SeparateBlocks)
        fronts = [option[0] for option in block.blocks] if separate else [block.front]
        projections = [option[1] for option in block.blocks] if separate else block.projections
        copies += [(front[0], one.expand) for front in fronts]
        copies += [(front[3], one.depthwise) for front in fronts]
        copies += [(projection[0], one.project) for projection in projections]
    for layer, source in copies:
        layer.weight.copy_(source.weight[: len(layer.weight)])
    network.classifier.load_state_dict(shared.classifier.state_dict())


@final
class GumbelSoftmax(Strategy):
    """Trains a conventional network as :class:`trainers.differentiable.Differentiable` does, without a term for cost.

    Args:
        blocks: how many choose.
        options: of each.
        every: steps of the weights to one of the logits.
        temperature: of the Gumbel-softmax.
    """

    def __init__(self, blocks: int, options: int, every: int, temperature: float = 5.0) -> None:
        self.every, self.temperature = every, temperature
        self.logits = [torch.zeros(options, requires_grad=True) for _ in range(blocks)]
        self.optimizer = torch.optim.Adam(self.logits, lr=0.02, betas=(0.5, 0.999))

    def backward(self, network: nn.Module, batch: Batch, step: Step) -> dict[str, torch.Tensor]:
        with torch.no_grad():
            weights = self._weights()
        loss = self._loss(network, batch, weights, step)
        torch.autograd.backward(loss)
        undecided = len(self.logits[0]) > 1
        if undecided and (step.number + 1) % self.every == 0:
            held = self._loss(network, step.held(0), self._weights(), step)
            slopes = torch.autograd.grad(held, self.logits, allow_unused=True)
            for logit, slope in zip(self.logits, slopes, strict=True):
                logit.grad = slope
            self.optimizer.step()
        return {"loss": loss.detach()}

    def _weights(self) -> list[torch.Tensor]:
        return [F.gumbel_softmax(logit, self.temperature) for logit in self.logits]

    def _loss(
        self, network: nn.Module, batch: Batch, weights: Sequence[torch.Tensor], step: Step
    ) -> torch.Tensor:
        outputs = network(*batch.inputs, weights)
        loss: torch.Tensor = step.space.task.loss(outputs, batch.targets, step.label_smoothing)
        return loss
