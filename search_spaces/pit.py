"""Pooling-based vision transformers (PiT, arXiv 2103.16302): stages of blocks on smaller grids of wider tokens.

``imagenet`` holds the published :data:`pit_ti`, :data:`pit_xs` and :data:`pit_s`; ``tiny`` trains on a CPU in
minutes, on images of 8 to 32 pixels, which are resized to its resolutions; :data:`tiny_default` has the
published proportions there. ``castling_tiny`` is ``tiny`` with a choice of each stage's attention, softmax or
linear-angular (Castling-ViT, arXiv 2211.10526).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from ray import tune
from torch import nn

import manynet as mn
from manynet import elastic
from manynet.search_spaces.transformer_parts import (
    Block,
    grid_of,
    initialise,
    square_image,
    versioned_attention,
)


class Stage(NamedTuple):
    """Options of a stage.

    Attributes:
        depth: blocks; the first k run.
        heads: attention heads of each block.
    """

    depth: Sequence[int]
    heads: Sequence[int]


class Attention(nn.Module):
    """Multi-head self-attention with elastic heads and elastic size of a head; arguments are largest sizes.

    Queries, keys and values have a layer each, so that the features of all heads are one leading slice for any
    size of a head.

    Args:
        width: features of a token.
        features: of all heads together.
        heads: largest number of heads.
        kinds: kinds of attention, which share these layers.
        angular: further arguments of linear-angular attention.
    """

    def __init__(
        self,
        width: int,
        features: int,
        heads: int = 1,
        kinds: Sequence[str] = ("softmax",),
        angular: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.kinds = elastic.attention_kinds(kinds)
        self.query = elastic.Linear(width, features)
        self.key = elastic.Linear(width, features)
        self.value = elastic.Linear(width, features)
        self.project = elastic.Linear(features, width)
        if "linear-angular" in self.kinds:
            self.angular = elastic.LinearAngularAttention(heads, features // heads, **(angular or {}))

    def forward(self, x: torch.Tensor, heads: int, head_dim: int, kind: str | None = None) -> torch.Tensor:
        """Mix tokens ``(B, N, width)``, the default is the first kind."""
        parts = (
            layer(x, out_features=heads * head_dim).unflatten(2, (heads, head_dim))
            for layer in (self.query, self.key, self.value)
        )
        operators = {"softmax": _softmax, "linear-angular": self._linear_angular}
        mixed = elastic.choose({name: operators[name] for name in self.kinds}, kind or self.kinds[0], *parts)
        output: torch.Tensor = self.project(mixed, out_features=x.shape[-1])
        return output

    def _linear_angular(self, *parts: torch.Tensor) -> torch.Tensor:
        mixed: torch.Tensor = self.angular(*parts)
        return mixed


def _softmax(*parts: torch.Tensor) -> torch.Tensor:
    """Mix values ``(B, N, heads, d)`` to ``(B, N, heads * d)``."""
    query, key, value = (x.transpose(1, 2) for x in parts)
    return elastic.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)


class Pool(nn.Module):
    """Halves the sides of the token grid and doubles the channels, those of the class token too.

    Args:
        width: largest features of an input token.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.grid = elastic.Conv2d(2 * width, 2 * width, 3, stride=2, padding=1, groups=2 * width)
        self.class_token = elastic.Linear(width, 2 * width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Map ``(B, 1 + h * h, width)`` to ``(B, 1 + ceil(h / 2)^2, 2 * width)``, the class token first."""
        # Each channel is repeated: a depthwise layer with two outputs a channel that still uses leading slices.
        grid = self.grid(grid_of(tokens).repeat_interleave(2, dim=1))
        first = self.class_token(tokens[:, :1], out_features=2 * tokens.shape[-1])
        return torch.cat([first, grid.flatten(2).transpose(1, 2)], dim=1)


class PoolingTransformer(mn.Supernet):
    """The largest of a family of pooling-based vision transformers; arguments are largest sizes.

    Args:
        channels: of the images.
        classes: outputs.
        width: features of a token in the first stage; each stage doubles them.
        head_dim: features of a head.
        stages: options of each.
        mlp_ratio: hidden features of a block's MLP, as a multiple of the width.
        patch_size: side of the stored patch kernel, in pixels.
        grid: patches along a side of the stored position embedding.
        attention: kinds of attention; with several, each stage chooses one.
        angular: further arguments of linear-angular attention, ``constant`` and ``branch``; see
            :class:`manynet.elastic.LinearAngularAttention`.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        width: int,
        head_dim: int,
        stages: Sequence[Stage],
        mlp_ratio: float,
        patch_size: int,
        grid: int,
        attention: Sequence[str] = ("softmax",),
        angular: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.stage_keys = ["heads", "mlp_ratio"] + ["attention"] * (len(attention) > 1)
        options = {**(angular or {}), "prefix_tokens": 1}
        widths = [width * 2**index for index in range(len(stages))]
        self.patches = elastic.PatchEmbedding(channels, width, patch_size)
        self.class_token = elastic.Parameter(nn.init.trunc_normal_(torch.empty(1, 1, width), std=0.02))
        # The class token has no position, as published.
        self.positions = elastic.PositionEmbedding(width, grid)
        self.stages = nn.ModuleList(
            nn.ModuleList(
                Block(
                    Attention(wide, heads * head_dim, heads, attention, options), wide, int(wide * mlp_ratio)
                )
                for heads in [max(stage.heads)] * max(stage.depth)
            )
            for wide, stage in zip(widths, stages, strict=True)
        )
        self.pools = nn.ModuleList(map(Pool, widths[:-1]))
        self.norm = elastic.LayerNorm(widths[-1])
        self.head = elastic.Linear(widths[-1], classes)
        self.apply(initialise)

    def forward(self, x: torch.Tensor, arch: mn.Architecture) -> torch.Tensor:
        """Map square images ``(B, C, H, H)`` to logits ``(B, classes)``."""
        for tokens in self.states(x, arch):
            last = tokens
        logits: torch.Tensor = self.head(self.norm(last[:, 0]))
        return logits

    def states(self, x: torch.Tensor, arch: mn.Architecture) -> Iterator[torch.Tensor]:
        """Tokens ``(B, 1 + h * h, width)`` after each block, the class token first; computed lazily."""
        tokens = self._embedded(x, arch)
        for index, blocks in enumerate(self.stages):
            assert isinstance(blocks, nn.ModuleList)
            if index:
                tokens = self.pools[index - 1](tokens)
            stage = {key: arch[f"stage{index}.{key}"] for key in self.stage_keys}
            for number in range(arch[f"stage{index}.depth"]):
                tokens = blocks[number](tokens, head_dim=arch["head_dim"], **stage)
                yield tokens

    def _embedded(self, x: torch.Tensor, arch: mn.Architecture) -> torch.Tensor:
        """The class token, and those of the patches with their positions, ``(B, 1 + h * h, width)``."""
        width, patch_size, stride = arch["width"], arch["patch_size"], arch["stride"]
        tokens = self.patches(x, width=width, patch_size=patch_size, stride=stride)
        tokens = tokens + self.positions(_grid(x.shape[-1], patch_size, stride), width)
        return torch.cat([self.class_token(1, 1, width).expand(x.shape[0], -1, -1), tokens], dim=1)


def _grid(resolution: int, patch_size: int, stride: int) -> int:
    """Patches along a side."""
    return (resolution - patch_size) // stride + 1


def space(
    name: str,
    *,
    resolution: Sequence[int],
    patch_size: Sequence[int],
    stride: Sequence[int],
    width: Sequence[int],
    head_dim: Sequence[int],
    stages: Sequence[Stage],
    mlp_ratio: Sequence[float],
    channels: int = 3,
    classes: int = 1000,
    stored_patch_size: int | None = None,
    stored_grid: int | None = None,
    attention: Sequence[str] = ("softmax",),
    angular: Mapping[str, Any] | None = None,
) -> mn.SearchSpace:
    """A space of pooling-based vision transformers over these options.

    Args:
        name: of the space.
        resolution: sides of the square input, in pixels.
        patch_size: sides of a patch, in pixels.
        stride: from one patch to the next, in pixels; below the patch size patches overlap.
        width: features of a token in the first stage; each stage doubles them.
        head_dim: features of a head, in all stages.
        stages: options of each.
        mlp_ratio: hidden features of a stage's MLPs, as a multiple of its width.
        channels: of the images.
        classes: outputs.
        stored_patch_size: patch size of the shared kernel; the smallest option by default.
        stored_grid: grid of the shared position embedding; that of the most patches by default.
        attention: kinds of attention; with several, each stage chooses one.
        angular: further arguments of linear-angular attention, ``constant`` and ``branch``; see
            :class:`manynet.elastic.LinearAngularAttention`.

    Raises:
        ValueError: when a stride leaves out pixels between patches or at the border, there is only one patch, or a
            kind of attention is unknown.
    """
    attention, version = versioned_attention(attention, angular)
    for r, p, s in ((r, p, s) for r in resolution for p in patch_size for s in stride):
        if s > p or p >= r or (r - p) % s:
            raise ValueError(
                "stride must be at most patch_size and divide resolution - patch_size, "
                f"but got resolution {r}, patch_size {p}, stride {s}"
            )
    domains: dict[str, Any] = {
        "resolution": tune.choice(list(resolution)),
        "patch_size": tune.choice(list(patch_size)),
        "stride": tune.choice(list(stride)),
        "width": tune.choice(list(width)),
        "head_dim": tune.choice(list(head_dim)),
    }
    for index, stage in enumerate(stages):
        domains[f"stage{index}.depth"] = tune.choice(list(stage.depth))
        domains[f"stage{index}.heads"] = tune.choice(list(stage.heads))
        domains[f"stage{index}.mlp_ratio"] = tune.choice(list(mlp_ratio))
        if len(attention) > 1:
            domains[f"stage{index}.attention"] = tune.choice(list(attention))
    network = partial(
        PoolingTransformer,
        channels=channels,
        classes=classes,
        width=max(width),
        head_dim=max(head_dim),
        stages=tuple(stages),
        mlp_ratio=max(mlp_ratio),
        patch_size=stored_patch_size or min(patch_size),
        grid=stored_grid or _grid(max(resolution), min(patch_size), min(stride)),
        attention=attention,
        angular=angular,
    )
    return mn.SearchSpace(
        name=name,
        domains=domains,
        supernet=network,
        task=mn.tasks.Classification(num_classes=classes),
        input_shape=partial(square_image, channels),
        version=version,
    )


def scales(arch: Mapping[str, Any]) -> dict[str, float | tuple[float, ...]]:
    """Quantities that scaling may change: a number, or one for each stage where stages differ."""
    stages = sum(key.endswith(".depth") for key in arch)
    return {
        "width": arch["width"],
        "resolution": arch["resolution"],
        "patch": (arch["patch_size"], arch["stride"]),
        "head_dim": arch["head_dim"],
        **{
            key: tuple(arch[f"stage{index}.{key}"] for index in range(stages))
            for key in ("depth", "heads", "mlp_ratio")
        },
    }


_small: dict[str, Any] = {
    "resolution": (16, 24, 32),
    # With patches of 4 pixels too, whose share of the image differs more, 300 steps of single-path training reached
    # 33 % accuracy on the digits instead of 52 %.
    "patch_size": (8,),
    "stride": (4, 8),
    "width": (16, 24, 32),
    "head_dim": (8, 16),
    "stages": (
        Stage(depth=(1, 2), heads=(1, 2)),
        Stage(depth=(1, 2, 3), heads=(1, 2, 4)),
        Stage(depth=(1, 2), heads=(2, 4, 8)),
    ),
    "mlp_ratio": (1, 2, 4),
    "channels": 1,
    "classes": 10,
}

tiny = space("pit-tiny", **_small)
castling_tiny = space("pit-castling-tiny", attention=("softmax", "linear-angular"), **_small)

imagenet = space(
    "pit-imagenet",
    resolution=(160, 192, 224, 256),
    patch_size=(16, 32),
    stride=(8, 16),
    width=(64, 80, 96, 112, 128, 144),
    head_dim=(32, 48),
    stages=(
        Stage(depth=(1, 2, 3), heads=(2, 3)),
        Stage(depth=(4, 5, 6, 7), heads=(4, 5, 6)),
        Stage(depth=(2, 3, 4, 5), heads=(8, 10, 12)),
    ),
    mlp_ratio=(2, 3, 4),
    # The published shape, which then needs no interpolation.
    stored_grid=27,
)


def _staged(depths: Sequence[int], heads: Sequence[int], **others: int) -> dict[str, int]:
    """An architecture with MLPs of 4 widths, and patches that overlap by half."""
    arch = others | {"stride": others["patch_size"] // 2}
    for index, (depth, count) in enumerate(zip(depths, heads, strict=True)):
        arch |= {f"stage{index}.depth": depth, f"stage{index}.heads": count, f"stage{index}.mlp_ratio": 4}
    return arch


_published = partial(_staged, (2, 6, 4), resolution=224, patch_size=16)
pit_ti = _published((2, 4, 8), width=64, head_dim=32)
pit_xs = _published((2, 4, 8), width=96, head_dim=48)
pit_s = _published((3, 6, 12), width=144, head_dim=48)

# The published proportions in the middle of ``tiny``: a third of the depths, rounded.
tiny_default = _staged((1, 2, 1), (2, 4, 8), resolution=24, patch_size=8, width=24, head_dim=16)
