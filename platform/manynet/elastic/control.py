"""Choice of operators and numbers of repeats, shared by hard, metered and soft forwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import reduce
from typing import Any

import torch
from torch import nn

from manynet.elastic.count import Count
from manynet.elastic.layer import ChoiceError, Size, chosen
from manynet.elastic.recorder import recording
from manynet.elastic.soft import Soft


def choose(
    options: Mapping[str, Callable[..., torch.Tensor]] | nn.ModuleDict, choice: str | Soft, *inputs: Any
) -> torch.Tensor:
    """Run the option named by ``choice`` on ``inputs``; for a soft choice, sum all options by weight.

    Raises:
        ChoiceError: when there is no such option.
    """
    if isinstance(choice, Soft):
        return weighted(choice, lambda name: choose(options, name, *inputs))
    if choice not in options:
        raise ChoiceError(f"the choice must be one of ({', '.join(options)}), but got {choice!r}")
    output: torch.Tensor = options[choice](*inputs)
    return output


def repeat(
    blocks: nn.ModuleList | Sequence[Callable[..., torch.Tensor]],
    depth: Size,
    x: torch.Tensor,
    arguments: Callable[[int], Mapping[str, Any]] = lambda index: {},
) -> torch.Tensor:
    """Send ``x`` through the first ``depth`` blocks; for a soft depth, sum the outputs of all depths by weight.

    Args:
        blocks: the largest stack.
        depth: how many of them run.
        x: input of the first block.
        arguments: returns the keyword arguments of block ``index``; called only for blocks that run.

    Raises:
        ChoiceError: when there are fewer blocks.
    """
    deepest = chosen(depth, len(blocks), "depth")
    if not isinstance(depth, Soft):
        for index in range(deepest):
            x = blocks[index](x, **arguments(index))
        return x
    weights = {option: weight for option, weight, _ in depth.groups()}
    parts = []
    for index in range(deepest):
        with _under(depth.beyond(index)):
            x = blocks[index](x, **arguments(index))
        if index + 1 in weights:
            parts.append(_scaled(weights[index + 1], x))
    return reduce(torch.add, parts)


def weighted(choice: Soft, run: Callable[[Any], torch.Tensor]) -> torch.Tensor:
    """Sum ``run(value)`` over the values of a soft choice by weight."""
    parts = []
    for value, weight, indicator in choice.groups():
        with _under(indicator):
            parts.append(_scaled(weight, run(value)))
    return reduce(torch.add, parts)


@contextmanager
def _under(indicator: Count) -> Iterator[None]:
    """Count costs inside the block only where ``indicator`` is 1."""
    recorder = recording()
    with nullcontext() if recorder is None else recorder.under(indicator):
        yield


def _scaled(weight: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """``weight * x``; ``x`` itself in a metered forward, where it is empty."""
    recorder = recording()
    return x if recorder is not None and recorder.metering else weight * x
