"""Features and attention maps of a vision transformer after chosen depths."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import nn

import manynet as mn
from manynet import elastic
from manynet.search_spaces.transformer_parts import grid_of


class TokenGrids(mn.Supernet):
    """The token grids of a vision transformer after chosen depths, as features for detection and the like.

    It wraps the network and shares its weights. Extraction and export work as for the network, and leave out the
    blocks behind the deepest grid and the head. Of a trained subnet, pass its ``network``.

    Args:
        network: has ``states(x, arch)``, which yields the tokens after each block.
        depths: numbers of blocks, counted from the image.

    Raises:
        ChoiceError: for no depth, or one below 1.
    """

    def __init__(self, network: nn.Module, depths: Sequence[int]) -> None:
        super().__init__()
        self.network = network
        self.depths = _checked_depths(depths)

    def forward(self, x: torch.Tensor, arch: mn.Architecture) -> tuple[torch.Tensor, ...]:
        """Map square images ``(B, C, H, H)`` to a grid ``(B, width, h, h)`` for each depth, not normalised.

        Raises:
            ChoiceError: for a depth that the architecture does not have.
        """
        states = enumerate(_states(self.network, x, arch, max(self.depths)), 1)
        grids = {depth: grid_of(tokens) for depth, tokens in states if depth in self.depths}
        return tuple(grids[depth] for depth in self.depths)


class AttentionMaps(mn.Supernet):
    """The attention maps of a vision transformer at chosen depths.

    It wraps the network, as :class:`TokenGrids` does, and is extracted and exported like it.

    Args:
        network: has ``states(x, arch)``, which yields the tokens after each block; its attention is softmax.
        depths: of the maps, in their order; 1 is the first block.

    Raises:
        ChoiceError: for no depth, one below 1, or a network with linear-angular attention, which has no maps.
    """

    def __init__(self, network: nn.Module, depths: Sequence[int]) -> None:
        super().__init__()
        self.network = network
        self.depths = _checked_depths(depths)
        for name, module in network.named_modules():
            if isinstance(module, elastic.LinearAngularAttention):
                raise elastic.ChoiceError(
                    f"attention must be softmax in every block whose maps are asked for, "
                    f"but {name.removesuffix('.angular')} may be linear-angular"
                )

    def forward(self, x: torch.Tensor, arch: mn.Architecture) -> tuple[torch.Tensor, ...]:
        """Map square images ``(B, C, H, H)`` to a map ``(B, heads, N, N)`` for each depth, whose rows sum to 1.

        Raises:
            ChoiceError: for a depth that the architecture does not have.
        """
        with elastic.attention_maps() as maps:
            for _ in _states(self.network, x, arch, max(self.depths)):
                pass
        return tuple(maps[depth - 1] for depth in self.depths)


def _checked_depths(depths: Sequence[int]) -> tuple[int, ...]:
    if not depths or min(depths) < 1:
        raise elastic.ChoiceError(f"depths must be one or more integers of at least 1, but got {depths!r}")
    return tuple(depths)


def _states(network: nn.Module, x: torch.Tensor, arch: mn.Architecture, depth: int) -> Iterator[torch.Tensor]:
    """Tokens after each of the first ``depth`` blocks; the others do not run."""
    count = 0
    for count, tokens in enumerate(network.states(x, arch), 1):  # type: ignore[operator]
        yield tokens
        if count == depth:
            return
    raise elastic.ChoiceError(f"depths must be at most the blocks, {count}, but got {depth}")
