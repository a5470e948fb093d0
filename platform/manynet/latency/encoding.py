"""Architectures as rows of numbers, and which of those numbers mean the same in different places of a network."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ray.tune.search.sample import Categorical
from scipy.linalg import block_diag

from manynet.space.domains import ArchitectureError, Options, admitted, bounds

Matrix = NDArray[np.float64]


class Encoding:
    """How the architectures of a space become rows of numbers.

    A choice of ``tune.choice`` has a column for each option, and one for being absent; a range has its value, scaled to
    lie between 0 and 1, one for being present and one for being absent. Keys that differ in numbers alone, such as
    ``block3.heads`` and ``block7.heads``, are the same choice in other places.

    Args:
        domains: of the space, by key.

    Attributes:
        width: number of columns.
    """

    def __init__(self, domains: Mapping[str, Options]) -> None:
        self.domains = dict(domains)
        self._columns = {key: _columns(domain) for key, domain in self.domains.items()}
        self._codes = {
            key: {None if column is ABSENT else column: code for code, column in enumerate(columns)}
            for key, columns in self._columns.items()
            if isinstance(self.domains[key], Categorical)
        }
        sizes = [len(columns) for columns in self._columns.values()]
        self._starts = dict(zip(self.domains, np.cumsum([0, *sizes]).tolist(), strict=False))
        self.width = sum(sizes)

    def rows(self, architectures: Sequence[Mapping[str, Any]]) -> Matrix:
        """Encode architectures, ``(n, width)``; keys that do not matter may be absent.

        Raises:
            ArchitectureError: for an unknown key, or a value outside its domain.
        """
        rows = np.zeros((len(architectures), self.width))
        places = np.arange(len(architectures))
        given = 0
        for key, start in self._starts.items():
            values = [arch.get(key) for arch in architectures]
            given += len(values) - values.count(None)
            if key in self._codes:
                rows[places, start + self._coded(key, values)] = 1
            else:
                rows[:, start : start + 3] = self._scaled(key, values)
        if given != sum(map(len, architectures)):
            self._refuse_unknown(architectures)
        return rows

    def _coded(self, key: str, values: list[Any]) -> NDArray[np.int64]:
        """The column of each value, counted from the key's first."""
        codes = self._codes[key]
        try:
            return np.array([codes[value] for value in values], dtype=np.int64)
        except (KeyError, TypeError):
            for value in values:
                if value is not None:
                    admitted(key, self.domains[key], value)
            raise

    def _scaled(self, key: str, values: list[Any]) -> Matrix:
        """Value from 0 to 1, present, absent: ``(n, 3)``."""
        domain = self.domains[key]
        lowest, highest = bounds(domain)  # type: ignore[arg-type]
        present = np.array([value is not None for value in values], dtype=bool)
        numbers = [lowest if value is None else admitted(key, domain, value) for value in values]
        scaled = (np.array(numbers, dtype=float) - lowest) / ((highest - lowest) or 1)
        return np.stack([scaled * present, present, ~present], axis=1)

    def _refuse_unknown(self, architectures: Iterable[Mapping[str, Any]]) -> None:
        for arch in architectures:
            for key, value in arch.items():
                if key not in self.domains:
                    raise ArchitectureError(
                        f"a choice must be one of ({', '.join(self.domains)}), but got {key!r}"
                    )
                admitted(key, self.domains[key], value)

    def alike(self, reach: float) -> Matrix:
        """How alike the effects of two columns are, ``(width, width)``, positive semi-definite.

        1 for a column and itself, exp(-d / reach) for the same option of the same choice, d places apart, else 0.
        """
        names, places = self._named()
        same = names[:, None] == names
        distance = np.abs(places[:, None] - places)
        return np.where(same, np.exp(-distance / reach), 0.0)

    @property
    def repeats(self) -> bool:
        """Whether any choice is made in more than one place."""
        return len({choice_of(key) for key in self.domains}) < len(self.domains)

    def _named(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """What each column says, as a number, and in which place of the network, ``(width,)``."""
        known: dict[Any, int] = {}
        seen: dict[str, int] = {}
        names, places = [], []
        for key, columns in self._columns.items():
            choice = choice_of(key)
            place = seen[choice] = seen.get(choice, -1) + 1
            for column in columns:
                names.append(known.setdefault((choice, column), len(known)))
                places.append(place)
        return np.array(names), np.array(places)

    def coordinates(self) -> tuple[Matrix, NDArray[np.int64]]:
        """A map of rows to a space in which near architectures are alike, ``(width, d)``, and the choice of each ``(d,)``.

        Numbers lie in order from 0 to 1; other options are at distance 1 from each other, and so is being absent, if
        the choice is made in one place. With P places, distances in each are less by the root of P.
        """
        places = Counter(map(choice_of, self.domains))
        known = {choice: number for number, choice in enumerate(places)}
        blocks, choices = [], []
        for key, columns in self._columns.items():
            choice = choice_of(key)
            # So that architectures that differ everywhere are as far apart, however many places there are.
            blocks.append(_coordinates(columns) / np.sqrt(places[choice]))
            choices += [known[choice]] * blocks[-1].shape[1]
        return block_diag(*blocks), np.array(choices)


ABSENT, VALUE, PRESENT = ("absent",), ("value",), ("present",)
"""Columns that are no option."""


def choice_of(key: str) -> str:
    """The choice that a key makes, wherever in the network: its name without numbers."""
    return re.sub(r"\d+", "", key)


def _columns(domain: Options) -> list[Any]:
    return [*domain.categories, ABSENT] if isinstance(domain, Categorical) else [VALUE, PRESENT, ABSENT]


def _coordinates(columns: list[Any]) -> Matrix:
    """Coordinates of the columns of one key, ``(columns, d)``."""
    if columns[0] is VALUE:
        return np.array([[1, 0], [0, 0], [0.5, 1]])
    options = columns[:-1]
    if all(isinstance(option, int | float) for option in options):
        order = np.argsort(np.argsort(options)) / max(1, len(options) - 1)
        return np.array([*([place, 0] for place in order), [0.5, 1]])
    # Half the squared length of each, so that any two are at distance 1.
    apart: Matrix = np.eye(len(columns)) / np.sqrt(2)
    return apart
