"""Counts that depend on soft choices, such as a network's cost, for every combination of options.

A product of two sizes that depend on one choice must be taken for each option, not as a product of means:
E[c^2] is not E[c]^2. So counts are arrays over options, and the expectation is taken last.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from operator import mul
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray

Array = NDArray[np.float64]
Keys = tuple[str, ...]


@final
class Count:
    """A sum of arrays, each over the options of some soft choices.

    Args:
        terms: maps sorted keys of choices to an array with one axis for each.
    """

    def __init__(self, terms: Mapping[Keys, Array]) -> None:
        self.terms = dict(terms)

    def __add__(self, other: Count | int) -> Count:
        total = dict(self.terms)
        for keys, values in _terms(other).items():
            total[keys] = total[keys] + values if keys in total else values
        return Count(total)

    def __mul__(self, other: Count | int) -> Count:
        products: Count = Count({})
        for keys, values in self.terms.items():
            for more, factors in _terms(other).items():
                joint = tuple(sorted({*keys, *more}))
                products += Count({joint: _spread(values, keys, joint) * _spread(factors, more, joint)})
        return products

    __radd__, __rmul__ = __add__, __mul__

    def at(self, options: Mapping[str, int]) -> float:
        """The count for one combination of options, given as an index for each key."""
        return sum(float(values[tuple(options[key] for key in keys)]) for keys, values in self.terms.items())

    def joined(self, other: Count | int) -> tuple[Keys, Array, Array]:
        """Both counts as arrays over the options of all their choices; returns the keys, then the arrays."""
        joint = tuple(
            sorted({key for terms in (self.terms, _terms(other)) for keys in terms for key in keys})
        )
        sides = (
            sum((_spread(values, keys, joint) for keys, values in terms.items()), np.zeros([1] * len(joint)))
            for terms in (self.terms, _terms(other))
        )
        return joint, *np.broadcast_arrays(*sides)  # type: ignore[return-value]


def largest(first: Count | int, other: Count | int) -> Count | int:
    """Elementwise maximum of two counts."""
    if isinstance(first, int):
        first, other = other, first
    if isinstance(first, int):
        return max(first, int(other))  # type: ignore[arg-type]
    keys, left, right = first.joined(other)
    return Count({keys: np.maximum(left, right)})


def product(*counts: Count | int) -> Count | int:
    """Product of counts."""
    return reduce(mul, counts, 1)


class Expectation(torch.nn.Module):
    """The expectation of a count, differentiable by the weights of the choices.

    Choices are taken to be independent of each other (Wan et al., FBNetV2, arXiv 2004.05565, section 3.4).
    """

    def __init__(self, count: Count | int) -> None:
        super().__init__()
        self.keys: list[Keys] = []
        for number, (keys, values) in enumerate(_terms(count).items()):
            self.keys.append(keys)
            self.register_buffer(f"values{number}", torch.tensor(values, dtype=torch.float32))

    def forward(self, weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The expected count, a scalar.

        Args:
            weights: of each choice's options, ``(options,)``, by key.
        """
        return torch.stack([self._term(number, weights) for number in range(len(self.keys))]).sum()

    def _term(self, number: int, weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
        values: Any = getattr(self, f"values{number}")
        for key in reversed(self.keys[number]):
            values = values @ weights[key].to(values)
        return values  # type: ignore[no-any-return]


def _terms(value: Count | int) -> Mapping[Keys, Array]:
    return value.terms if isinstance(value, Count) else {(): np.array(float(value))}


def _spread(values: Array, keys: Keys, joint: Keys) -> Array:
    """An array over ``keys`` with an axis for each of ``joint``, which holds them in the same order."""
    return values.reshape([values.shape[keys.index(key)] if key in keys else 1 for key in joint])
