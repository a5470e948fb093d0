"""Soft choices of differentiable search: undecided, with a weight for each option."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, reduce
from typing import Any, TypeVar, final

import numpy as np
import torch
from torch.nn import functional as F

from manynet.elastic.count import Count

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Choice:
    """One undecided choice.

    Attributes:
        key: its key in the architecture.
        weights: of its options, ``(options,)``, summing to 1.
    """

    key: str
    weights: torch.Tensor


@final
@dataclass(frozen=True, eq=False)
class Soft:
    """A value that depends on undecided choices.

    Attributes:
        choices: the choices it depends on, sorted by key.
        values: one for each combination of options; the last choice varies fastest.
    """

    choices: tuple[Choice, ...]
    values: tuple[Any, ...]

    @cached_property
    def weights(self) -> torch.Tensor:
        """Weight of each combination, ``(combinations,)``: choices are independent."""
        return reduce(_outer, (choice.weights for choice in self.choices))

    def groups(self) -> Iterator[tuple[Any, torch.Tensor, Count]]:
        """Each distinct value, its scalar weight, and its indicator: a count that is 1 at this value, else 0."""
        weights = self.weights
        for value in dict.fromkeys(self.values):
            same = np.array([other == value for other in self.values])
            yield value, weights[torch.from_numpy(same).to(weights.device)].sum(), self._counted(same)

    @property
    def count(self) -> Count:
        """The value as a count over the choices' options."""
        return self._counted(np.array(self.values))

    def beyond(self, number: int) -> Count:
        """Indicator of the value being above ``number``."""
        return self._counted([value > number for value in self.values])

    def mask(self, size: int) -> torch.Tensor:
        """Channel mask ``(size,)``: ``sum_i w_i [channel < c_i]``.

        From FBNetV2 (arXiv 2004.05565, equation 3).
        """
        weights = self.weights
        return weights @ _steps(self.values, size).to(weights)

    def _counted(self, values: Any) -> Count:
        shape = [len(choice.weights) for choice in self.choices]
        array = np.asarray(values, np.float64).reshape(shape)
        return Count({tuple(choice.key for choice in self.choices): array})


def soft(key: str, options: Sequence[Any], weights: torch.Tensor) -> Soft:
    """One undecided choice."""
    return Soft((Choice(key, weights),), tuple(options))


def combine(function: Callable[..., T], *values: Any) -> T | Soft:
    """``function(*values)``; with soft values, a soft value over every combination of their options.

    For example, a hidden width from an expansion and a width:
    ``combine(lambda e, w: round(e * w), expansion, width)``.
    """
    choices = {choice.key: choice for value in values if isinstance(value, Soft) for choice in value.choices}
    if not choices:
        return function(*values)
    ordered = [choices[key] for key in sorted(choices)]
    indices = itertools.product(*(range(len(choice.weights)) for choice in ordered))
    options = [dict(zip(sorted(choices), index, strict=True)) for index in indices]
    return Soft(tuple(ordered), tuple(function(*(_decided(value, at) for value in values)) for at in options))


def masked(x: torch.Tensor, choice: int | Soft | None, dim: int = 1) -> torch.Tensor:
    """Mask ``x`` along ``dim`` by a soft choice of its size; a decided size leaves it unchanged.

    For outputs that no normalisation follows: normalisations mask by themselves.
    """
    if not isinstance(choice, Soft) or x.is_meta:
        return x
    return x * choice.mask(x.shape[dim]).view(-1, *[1] * (x.dim() - dim % x.dim() - 1))


def fitted(x: torch.Tensor, choice: int | Soft, dim: int = 1) -> torch.Tensor:
    """Cut or zero-pad ``x`` to a size along ``dim``; for a soft choice, to its largest option, then mask."""
    size = max(choice.values) if isinstance(choice, Soft) else choice
    dim %= x.dim()
    if x.shape[dim] > size:
        x = x.narrow(dim, 0, size)
    elif x.shape[dim] < size:
        x = F.pad(x, [0, 0] * (x.dim() - dim - 1) + [0, size - x.shape[dim]])
    return masked(x, choice, dim)


def _decided(value: Any, options: dict[str, int]) -> Any:
    if not isinstance(value, Soft):
        return value
    index = 0
    for choice in value.choices:
        index = index * len(choice.weights) + options[choice.key]
    return value.values[index]


def _outer(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    return torch.outer(one, other).flatten()


@lru_cache(maxsize=1024)
def _steps(values: tuple[int, ...], size: int) -> torch.Tensor:
    """``(combinations, size)``: 1 for the leading ``value`` channels."""
    return (torch.arange(size) < torch.tensor(values)[:, None]).float()
