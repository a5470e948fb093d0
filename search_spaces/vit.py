"""Vanilla vision transformers with elastic depth, width, heads, MLP ratio, resolution and patch size.

``tiny`` trains on a CPU in a minute. ``autoformer_t``, ``_s`` and ``_b`` have the ranges of AutoFormer
(arXiv 2107.00651). ``deit_scaling`` scales DeiT-Tiny (arXiv 2012.12877) by the factors of hardware-aware
ViT scaling (doi 10.1145/3611387); DeiT-Tiny itself is one of its architectures, :data:`DEIT_TINY`.
:data:`tiny_default` has its proportions in ``tiny``. ``castling_tiny`` is ``tiny`` with a choice of each block's
attention, softmax or linear-angular (Castling-ViT, arXiv 2211.10526); ``castling_32`` has it at up to 257 tokens.
``castling_grid_8``, ``_16`` and ``_32`` are one small space at 65, 257 and 1025 tokens: pixels of 16, 32 and 64, patches
of 2. In all three the largest subnet has softmax in every block, the smallest linear-angular.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from statistics import fmean
from typing import Any

import torch
from ray import tune
from torch import nn

import manynet as mn
from manynet import elastic
from manynet.search_spaces.token_grids import AttentionMaps, TokenGrids  # noqa: F401 - vit's public names
from manynet.search_spaces.transformer_parts import Block, initialise, square_image, versioned_attention


class VisionTransformer(mn.Supernet):
    """The largest of a family of vision transformers; arguments are largest sizes.

    Args:
        channels: of the images.
        classes: outputs.
        depth: blocks.
        width: features of a token.
        heads: attention heads of a block.
        head_dim: features of a head.
        hidden: features inside a block's MLP.
        patch_size: side of the stored patch kernel, in pixels.
        grid: patches along a side of the stored position embedding.
        per_block: whether heads and MLP ratio are chosen for each block, or once for all.
        attention: kinds of attention; with several, each block chooses one.
        angular: further arguments of linear-angular attention, ``constant`` and ``branch``; see
            :class:`manynet.elastic.LinearAngularAttention`.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        depth: int,
        width: int,
        heads: int,
        head_dim: int,
        hidden: int,
        patch_size: int,
        grid: int,
        per_block: bool,
        attention: Sequence[str] = ("softmax",),
        angular: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.per_block = per_block
        self.attention = tuple(attention)
        self.patches = elastic.PatchEmbedding(channels, width, patch_size)
        self.class_token = elastic.Parameter(nn.init.trunc_normal_(torch.empty(1, 1, width), std=0.02))
        self.positions = elastic.PositionEmbedding(width, grid, prefix_tokens=1)
        options = {**(angular or {}), "prefix_tokens": 1}
        self.blocks = nn.ModuleList(
            Block(elastic.Attention(width, heads, head_dim, kinds=attention, angular=options), width, hidden)
            for _ in range(depth)
        )
        self.norm = elastic.LayerNorm(width)
        self.head = elastic.Linear(width, classes)
        self.apply(initialise)

    def forward(self, x: torch.Tensor, arch: mn.Architecture) -> torch.Tensor:
        """Map square images ``(B, C, H, H)`` to logits ``(B, classes)``."""
        tokens = self._embedded(x, arch)
        tokens = elastic.repeat(self.blocks, arch["depth"], tokens, lambda i: self._block(arch, i))
        logits: torch.Tensor = self.head(self.norm(tokens[:, 0]))
        return logits

    def states(self, x: torch.Tensor, arch: mn.Architecture) -> Iterator[torch.Tensor]:
        """Tokens ``(B, 1 + H/p * H/p, width)`` after each block, the class token first; computed lazily."""
        tokens = self._embedded(x, arch)
        for index in range(arch["depth"]):
            tokens = self.blocks[index](tokens, **self._block(arch, index))
            yield tokens

    def _embedded(self, x: torch.Tensor, arch: mn.Architecture) -> torch.Tensor:
        """The class token and those of the patches ``(B, 1 + H/p * H/p, width)``, with their positions."""
        width, patch_size = arch["width"], arch["patch_size"]
        tokens = self.patches(x, width=width, patch_size=patch_size)
        tokens = torch.cat([self.class_token(1, 1, width).expand(x.shape[0], -1, -1), tokens], dim=1)
        embedded: torch.Tensor = tokens + self.positions(x.shape[-1] // patch_size, width)
        return embedded

    def _block(self, arch: mn.Architecture, index: int) -> dict[str, Any]:
        prefix = f"block{index}." if self.per_block else ""
        options = {"heads": arch[f"{prefix}heads"], "mlp_ratio": arch[f"{prefix}mlp_ratio"]}
        return options | ({"attention": arch[f"block{index}.attention"]} if len(self.attention) > 1 else {})


def space(
    name: str,
    *,
    resolution: Sequence[int],
    patch_size: Sequence[int],
    depth: Sequence[int],
    width: Sequence[int],
    heads: Sequence[int],
    mlp_ratio: Sequence[float],
    head_dim: int = 64,
    per_block: bool = False,
    channels: int = 3,
    classes: int = 1000,
    stored_patch_size: int | None = None,
    stored_grid: int | None = None,
    attention: Sequence[str] = ("softmax",),
    angular: Mapping[str, Any] | None = None,
) -> mn.SearchSpace:
    """A space of vision transformers over these options.

    Args:
        name: of the space.
        resolution: sides of the square input, in pixels.
        patch_size: sides of a patch, in pixels; each must divide each resolution.
        depth: blocks; the first k run.
        width: features of a token.
        heads: attention heads of a block.
        mlp_ratio: hidden features of a block's MLP, as a multiple of the width.
        head_dim: features of a head.
        per_block: choose heads and MLP ratio for each block rather than once.
        channels: of the images.
        classes: outputs.
        stored_patch_size: patch size of the shared kernel; the smallest option by default.
        stored_grid: grid of the shared position embedding; that of the largest option by default.
        attention: kinds of attention; with several, each block chooses one.
        angular: further arguments of linear-angular attention, ``constant`` and ``branch``; see
            :class:`manynet.elastic.LinearAngularAttention`.

    Raises:
        ValueError: when a patch size does not divide a resolution, or a kind of attention is unknown.
    """
    attention, version = versioned_attention(attention, angular)
    misfit = [(r, p) for r in resolution for p in patch_size if r % p]
    if misfit:
        raise ValueError("patch_size must divide resolution, but got {1} for {0}".format(*misfit[0]))
    domains: dict[str, Any] = {
        "resolution": tune.choice(list(resolution)),
        "patch_size": tune.choice(list(patch_size)),
        "depth": tune.choice(list(depth)),
        "width": tune.choice(list(width)),
    }
    for prefix in [f"block{i}." for i in range(max(depth))] if per_block else [""]:
        domains[f"{prefix}heads"] = tune.choice(list(heads))
        domains[f"{prefix}mlp_ratio"] = tune.choice(list(mlp_ratio))
    for index in range(max(depth) if len(attention) > 1 else 0):
        domains[f"block{index}.attention"] = tune.choice(list(attention))
    network = partial(
        VisionTransformer,
        channels=channels,
        classes=classes,
        depth=max(depth),
        width=max(width),
        heads=max(heads),
        head_dim=head_dim,
        hidden=int(max(width) * max(mlp_ratio)),
        patch_size=stored_patch_size or min(patch_size),
        grid=stored_grid or max(resolution) // min(patch_size),
        per_block=per_block,
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


def scales(arch: Mapping[str, Any]) -> dict[str, float]:
    """Quantities that scaling may change; heads and MLP ratio are means over blocks."""
    prefixes = [f"block{i}." for i in range(arch["depth"])] if "block0.heads" in arch else [""]
    return {
        "depth": arch["depth"],
        "width": arch["width"],
        "resolution": arch["resolution"],
        "patch": arch["patch_size"],
        **{key: fmean(arch[prefix + key] for prefix in prefixes) for key in ("heads", "mlp_ratio")},
    }


_both: Any = {"attention": ("softmax", "linear-angular")}
_small: dict[str, Any] = {
    "depth": (1, 2, 3, 4),
    "width": (32, 48, 64),
    "heads": (1, 2, 4),
    "mlp_ratio": (1, 2, 4),
    "head_dim": 16,
    "per_block": True,
    "channels": 1,
    "classes": 10,
}

tiny = space("vit-tiny", resolution=(8, 16, 24, 32), patch_size=(4, 8), **_small)
castling_tiny = space("castling-tiny", resolution=(8, 16, 24, 32), patch_size=(4, 8), **_small, **_both)
castling_32 = space("castling-32", resolution=(32,), patch_size=(2, 4), **_small, **_both)

# Small enough to train at 1025 tokens on a CPU; at least two blocks, because choices of blocks are compared.
_grid: dict[str, Any] = {
    **_small,
    **_both,
    "depth": (2, 3, 4),
    "width": (32, 48),
    "heads": (1, 2),
    "mlp_ratio": (1, 2),
}
castling_grid_8 = space("castling-grid-8", resolution=(16,), patch_size=(2,), **_grid)
castling_grid_16 = space("castling-grid-16", resolution=(32,), patch_size=(2,), **_grid)
castling_grid_32 = space("castling-grid-32", resolution=(64,), patch_size=(2,), **_grid)

# DeiT-Tiny's proportions: 16 times as wide as deep, MLPs of 4 widths. Its heads would be 3, of 16 features;
# 4 is the option nearest in ratio.
tiny_default: dict[str, Any] = {"resolution": 16, "patch_size": 4, "depth": 3, "width": 48}
for _block in range(3):
    tiny_default |= {f"block{_block}.heads": 4, f"block{_block}.mlp_ratio": 4}

_imagenet_224: dict[str, Any] = {"resolution": (224,), "patch_size": (16,), "per_block": True}

autoformer_t = space(
    "autoformer-t",
    depth=(12, 13, 14),
    width=(192, 216, 240),
    heads=(3, 4),
    mlp_ratio=(3.5, 4),
    **_imagenet_224,
)
autoformer_s = space(
    "autoformer-s",
    depth=(12, 13, 14),
    width=(320, 384, 448),
    heads=(5, 6, 7),
    mlp_ratio=(3, 3.5, 4),
    **_imagenet_224,
)
autoformer_b = space(
    "autoformer-b",
    depth=(14, 15, 16),
    width=(528, 576, 624),
    heads=(9, 10),
    mlp_ratio=(3, 3.5, 4),
    **_imagenet_224,
)

deit_scaling = space(
    "deit-scaling",
    resolution=(160, 192, 224, 256, 288),
    patch_size=(16, 32),
    depth=(6, 8, 10, 12, 14, 16),
    width=(128, 160, 192, 224, 256, 320),
    heads=(2, 3, 4, 5),
    mlp_ratio=(2, 3, 4, 5),
    stored_patch_size=16,
    stored_grid=14,
)

DEIT_TINY = {
    "resolution": 224,
    "patch_size": 16,
    "depth": 12,
    "width": 192,
    "heads": 3,
    "mlp_ratio": 4,
}
