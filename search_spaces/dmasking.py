"""FBNetV2's search space (Wan et al., arXiv 2004.05565): inverted residuals whose choices may stay undecided.

The choices are the input's resolution, and each block's channels, expansion, kernel, squeeze-and-excitation,
activation, and whether it is skipped. The authors give each kernel and activation a block of its own; here a
smaller kernel is the middle of the larger, so that every choice is made inside one block. ``fbnetv2`` is the
published macro-architecture; ``tiny`` trains on a CPU on images of 28 to 32 pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from ray import tune
from torch import nn
from torch.nn import functional as F

import manynet as mn
from manynet import elastic

ACTIVATIONS: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {"relu": F.relu, "hswish": F.hardswish}
_REDUCTION = 4


@dataclass(frozen=True)
class Stage:
    """Blocks at one resolution.

    Attributes:
        channels: options of each block.
        blocks: number of blocks.
        stride: of the first block.
        expansions: hidden channels, as multiples of a block's input channels.
    """

    channels: Sequence[int]
    blocks: int
    stride: int
    expansions: Sequence[float]


class SqueezeExcite(nn.Module):
    """Squeeze-and-excitation (arXiv 1709.01507), with MobileNetV3's hard sigmoid."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce = elastic.Conv2d(channels, reduced(channels), 1)
        self.expand = elastic.Conv2d(reduced(channels), channels, 1)

    def forward(self, x: torch.Tensor, channels: elastic.Size) -> torch.Tensor:
        """Scale ``(B, channels, H, W)``."""
        inner = elastic.combine(reduced, channels)
        y = F.relu(elastic.masked(self.reduce(x.mean((2, 3), keepdim=True), inner, channels), inner))
        return x * F.hardsigmoid(self.expand(y, channels, inner))


def reduced(channels: int) -> int:
    """Channels inside squeeze-and-excitation."""
    return max(1, channels // _REDUCTION)


def hidden(expansion: float, channels: int) -> int:
    """Channels inside an inverted residual."""
    return max(1, round(expansion * channels))


class InvertedResidual(nn.Module):
    """Inverted residual block (MobileNetV2, arXiv 1801.04381); arguments are largest sizes.

    Args:
        inputs: input channels.
        outputs: output channels.
        expansion: hidden channels, as a multiple of ``inputs``; 1 means no expanding convolution.
        kernel: side of the depthwise kernel.
        stride: of the depthwise convolution.
    """

    def __init__(self, inputs: int, outputs: int, expansion: float, kernel: int, stride: int) -> None:
        super().__init__()
        inner = hidden(expansion, inputs)
        self.stride = stride
        self.expand = elastic.Conv2d(inputs, inner, 1, bias=False) if expansion != 1 else None
        self.expand_norm = elastic.BatchNorm2d(inner) if expansion != 1 else None
        self.depthwise = elastic.Conv2d(
            inner, inner, kernel, stride=stride, padding=kernel // 2, groups=inner, bias=False
        )
        self.depthwise_norm = elastic.BatchNorm2d(inner)
        self.excite = SqueezeExcite(inner)
        self.project = elastic.Conv2d(inner, outputs, 1, bias=False)
        self.project_norm = elastic.BatchNorm2d(outputs)

    def forward(
        self,
        x: torch.Tensor,
        inputs: elastic.Size,
        outputs: elastic.Size,
        inner: elastic.Size,
        kernel: elastic.Size,
        excite: Any,
        activation: Any,
    ) -> torch.Tensor:
        """Map ``(B, inputs, H, W)`` to ``(B, outputs, H', W')``; at stride 1 the input is added, cut or padded."""
        act = partial(elastic.choose, ACTIVATIONS, activation)

        def excited(y: torch.Tensor) -> torch.Tensor:
            output: torch.Tensor = self.excite(y, inner)
            return output

        y = x
        if self.expand is not None and self.expand_norm is not None:
            y = act(self.expand_norm(self.expand(y, inner, inputs), inner))
        y = self.depthwise(y, in_channels=inner, kernel_size=kernel)
        y = act(self.depthwise_norm(y, inner))
        y = elastic.choose({"se": excited, "none": _identity}, excite, y)
        y = self.project_norm(self.project(y, outputs, inner), outputs)
        assert isinstance(y, torch.Tensor)
        return y + elastic.fitted(x, outputs) if self.stride == 1 else y


def _identity(x: torch.Tensor) -> torch.Tensor:
    return x


class DMasking(mn.Supernet):
    """The largest of a family of inverted-residual networks; arguments are largest sizes.

    Args:
        channels: of the images.
        classes: outputs.
        stem: channels of the first convolution.
        stem_stride: its stride.
        stages: of blocks.
        kernel: side of the depthwise kernels.
        head: channels before pooling.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        stem: int,
        stem_stride: int,
        stages: Sequence[Stage],
        kernel: int,
        head: int,
    ) -> None:
        super().__init__()
        self.width = stem
        self.stem = elastic.Conv2d(channels, stem, 3, stride=stem_stride, padding=1, bias=False)
        self.stem_norm = elastic.BatchNorm2d(stem)
        self.blocks = nn.ModuleList()
        width = stem
        for stage in stages:
            for number in range(stage.blocks):
                stride = 1 if number else stage.stride
                largest = max(stage.channels)
                self.blocks.append(InvertedResidual(width, largest, max(stage.expansions), kernel, stride))
                width = largest
        self.head = elastic.Conv2d(width, head, 1, bias=False)
        self.head_norm = elastic.BatchNorm2d(head)
        self.classifier = elastic.Linear(head, classes)

    def forward(self, x: torch.Tensor, arch: mn.Architecture) -> torch.Tensor:
        """Map square images ``(B, C, H, H)``, ``H`` at least the resolution, to logits ``(B, classes)``."""
        return elastic.at_resolution(partial(self._classified, arch=arch), x, arch["resolution"])

    def _classified(self, x: torch.Tensor, arch: mn.Architecture) -> torch.Tensor:
        x = F.hardswish(self.stem_norm(self.stem(x)))
        width: elastic.Size = self.width
        for number, block in enumerate(self.blocks, 1):
            x = self._block(block, x, width, f"block{number}.", arch)
            width = arch[f"block{number}.channels"]
        x = F.hardswish(self.head_norm(self.head(x, in_channels=width)))
        logits: torch.Tensor = self.classifier(x.mean((2, 3)))
        return logits

    def _block(
        self, block: nn.Module, x: torch.Tensor, inputs: elastic.Size, prefix: str, arch: mn.Architecture
    ) -> torch.Tensor:
        outputs = arch[prefix + "channels"]

        def inverted(x: torch.Tensor) -> torch.Tensor:
            # Read here, so that a skipped block's choices have no effect.
            output: torch.Tensor = block(
                x,
                inputs,
                outputs,
                elastic.combine(hidden, arch[prefix + "expansion"], inputs),
                arch[prefix + "kernel"],
                arch[prefix + "excite"],
                arch[prefix + "activation"],
            )
            return output

        def skip(x: torch.Tensor) -> torch.Tensor:
            return elastic.fitted(x, outputs)

        return elastic.choose({"inverted_residual": inverted, "skip": skip}, arch[prefix + "operator"], x)


def space(
    name: str,
    *,
    resolution: Sequence[int],
    stages: Sequence[Stage],
    stem: int = 16,
    stem_stride: int = 2,
    kernels: Sequence[int] = (3, 5),
    head: int = 1984,
    channels: int = 3,
    classes: int = 1000,
) -> mn.SearchSpace:
    """A space of inverted-residual networks over these options.

    Every choice may stay undecided. The first block of a stage cannot be skipped.

    Args:
        name: of the space.
        resolution: sides of the square input, in pixels.
        stages: of blocks.
        stem: channels of the first convolution.
        stem_stride: its stride.
        kernels: sides of the depthwise kernels, odd.
        head: channels before pooling.
        channels: of the images.
        classes: outputs.
    """
    domains: dict[str, Any] = {"resolution": tune.choice(list(resolution))}
    number = 0
    for stage in stages:
        for index in range(stage.blocks):
            number += 1
            domains |= {
                f"block{number}.{key}": tune.choice(list(options))
                for key, options in _block_options(stage, index, kernels).items()
            }
    return mn.SearchSpace(
        name=name,
        domains=domains,
        supernet=partial(
            DMasking,
            channels=channels,
            classes=classes,
            stem=stem,
            stem_stride=stem_stride,
            stages=tuple(stages),
            kernel=max(kernels),
            head=head,
        ),
        task=mn.tasks.Classification(num_classes=classes),
        input_shape=partial(_image, channels),
        soft=list(domains),
    )


def _block_options(stage: Stage, index: int, kernels: Sequence[int]) -> dict[str, Sequence[Any]]:
    return {
        "channels": stage.channels,
        "expansion": stage.expansions,
        "kernel": kernels,
        "excite": ("none", "se"),
        "activation": tuple(ACTIVATIONS),
        "operator": ("inverted_residual", "skip") if index else ("inverted_residual",),
    }


def _image(channels: int, arch: Mapping[str, Any]) -> tuple[int, int, int]:
    return channels, arch["resolution"], arch["resolution"]


_EXPANSIONS = (0.75, 1.5, 2.25, 3.0, 3.75, 4.5)


def _steps(low: int, high: int, step: int) -> tuple[int, ...]:
    return tuple(range(low, high + 1, step))


fbnetv2 = space(
    "fbnetv2",
    resolution=_steps(224, 288, 32),
    stages=(
        Stage(_steps(12, 16, 4), 1, 1, (1,)),
        Stage(_steps(16, 28, 4), 3, 2, _EXPANSIONS),
        Stage(_steps(16, 40, 8), 3, 2, _EXPANSIONS),
        Stage(_steps(48, 96, 8), 3, 2, _EXPANSIONS),
        Stage(_steps(72, 128, 8), 4, 1, _EXPANSIONS),
        Stage(_steps(112, 216, 8), 4, 2, _EXPANSIONS),
    ),
)

tiny = space(
    "dmasking-tiny",
    resolution=(16, 20, 24, 28),
    stages=(
        Stage(_steps(8, 16, 4), 2, 1, (1.0, 2.0, 3.0)),
        Stage(_steps(12, 24, 4), 2, 2, (1.5, 3.0)),
        Stage(_steps(16, 40, 8), 2, 2, (1.5, 3.0)),
    ),
    stem=8,
    head=96,
    channels=1,
    classes=10,
)
