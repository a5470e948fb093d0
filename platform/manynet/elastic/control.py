"""Choices between operators and numbers of repeats, in the one text that every reading shares."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from manynet.elastic.layer import ChoiceError, chosen


def choose(
    options: Mapping[str, Callable[..., torch.Tensor]] | nn.ModuleDict, choice: str, *inputs: Any
) -> torch.Tensor:
    """Run the option that ``choice`` names on ``inputs``.

    Raises:
        ChoiceError: when there is no such option.
    """
    if choice not in options:
        raise ChoiceError(f"the choice must be one of ({', '.join(options)}), but got {choice!r}")
    output: torch.Tensor = options[choice](*inputs)
    return output


def repeat(
    blocks: nn.ModuleList | Sequence[Callable[..., torch.Tensor]],
    depth: int,
    x: torch.Tensor,
    arguments: Callable[[int], Mapping[str, Any]] = lambda index: {},
) -> torch.Tensor:
    """Send ``x`` through the first ``depth`` blocks.

    Args:
        blocks: the largest stack.
        depth: how many of them run.
        x: input of the first block.
        arguments: keyword arguments of block ``index``; asked only for blocks that run.

    Raises:
        ChoiceError: when there are fewer blocks.
    """
    for index in range(chosen(depth, len(blocks), "depth")):
        x = blocks[index](x, **arguments(index))
    return x
