"""Numbers that depend on soft choices: what a network costs, for every combination of options at once.

A product of two sizes that follow from one choice is a number for each of its options, not the product of two
means: E[c^2] is not E[c]^2. So counts are kept as arrays over options, and their expectation is taken last.
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
        terms: by the choices' keys in order, an array with one axis for each.
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
        """The number for one combination: the index of an option for each key."""
        return sum(float(values[tuple(options[key] for key in keys)]) for keys, values in self.terms.items())

    def joined(self, other: Count | int) -> tuple[Keys, Array, Array]:
        """Both as one array each, over the options of all choices that either depends on."""
        joint = tuple(
            sorted({key for terms in (self.terms, _terms(other)) for keys in terms for key in keys})
        )
        sides = (
            sum((_spread(values, keys, joint) for keys, values in terms.items()), np.zeros([1] * len(joint)))
            for terms in (self.terms, _terms(other))
        )
        return joint, *np.broadcast_arrays(*sides)  # type: ignore[return-value]


def largest(one: Count | int, other: Count | int) -> Count | int:
    """The larger of two numbers, for every combination."""
    if isinstance(one, int):
        one, other = other, one
    if isinstance(one, int):
        return max(one, int(other))  # type: ignore[arg-type]
    keys, first, second = one.joined(other)
    return Count({keys: np.maximum(first, second)})


def product(*counts: Count | int) -> Count | int:
    """All of them multiplied."""
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
        """The expected number, a scalar.

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
