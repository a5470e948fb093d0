"""Numeric encoding of architectures; relates the same choice in different places of a network."""

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
    """Encodes the architectures of a space as rows of numbers.

    A choice of ``tune.choice`` has a column for each option, and one for absent; a range has columns for its value, scaled
    to 0..1, for present and for absent. Keys that differ in numbers alone, such as
    ``block3.heads`` and ``block7.heads``, are the same choice in other places.

    Args:
        domains: of the space's choices, by key.

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
        """Encode architectures, ``(n, width)``; inactive keys may be absent.

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
                rows[places, start + self._categorical_columns(key, values)] = 1
            else:
                rows[:, start : start + 3] = self._range_columns(key, values)
        if given != sum(map(len, architectures)):
            self._refuse_unknown(architectures)
        return rows

    def _categorical_columns(self, key: str, values: list[Any]) -> NDArray[np.int64]:
        """The column of each value, counted from the key's first."""
        codes = self._codes[key]
        try:
            return np.array([codes[value] for value in values], dtype=np.int64)
        except (KeyError, TypeError):
            for value in values:
                if value is not None:
                    admitted(key, self.domains[key], value)
            raise

    def _range_columns(self, key: str, values: list[Any]) -> Matrix:
        """Columns of a range: value from 0 to 1, present, absent, ``(n, 3)``."""
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

    def similarity(self, reach: float) -> Matrix:
        """Similarity of the effects of two columns, ``(width, width)``, positive semi-definite.

        1 for a column and itself, exp(-d / reach) for the same option of the same choice, d places apart, else 0.
        """
        names, places = self._ids_and_places()
        same = names[:, None] == names
        distance = np.abs(places[:, None] - places)
        return np.where(same, np.exp(-distance / reach), 0.0)

    @property
    def repeats(self) -> bool:
        """Whether any choice occurs in more than one place."""
        return len({choice_name(key) for key in self.domains}) < len(self.domains)

    def _ids_and_places(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Id of each column's choice and option, and its place in the network, ``(width,)`` each."""
        ids: dict[Any, int] = {}
        last_place: dict[str, int] = {}
        names, places = [], []
        for key, columns in self._columns.items():
            choice = choice_name(key)
            place = last_place[choice] = last_place.get(choice, -1) + 1
            for column in columns:
                names.append(ids.setdefault((choice, column), len(ids)))
                places.append(place)
        return np.array(names), np.array(places)

    def coordinates(self) -> tuple[Matrix, NDArray[np.int64]]:
        """Linear map of rows to coordinates in which similar architectures are near, ``(width, d)``; each one's choice, ``(d,)``.

        Numbers are ranked from 0 to 1; other options and absence are at distance 1 from each other, if the choice
        occurs in one place. With P places, distances in each are less by the root of P.
        """
        places = Counter(map(choice_name, self.domains))
        choice_ids = {choice: number for number, choice in enumerate(places)}
        blocks, choices = [], []
        for key, columns in self._columns.items():
            choice = choice_name(key)
            # Keeps the distance of architectures that differ everywhere independent of the number of places.
            blocks.append(_coordinates(columns) / np.sqrt(places[choice]))
            choices += [choice_ids[choice]] * blocks[-1].shape[1]
        return block_diag(*blocks), np.array(choices)


ABSENT, VALUE, PRESENT = ("absent",), ("value",), ("present",)
"""Columns that are not options."""


def choice_name(key: str) -> str:
    """Name of a key's choice, the same in all places: the key without numbers."""
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
    # Scaled so that any two are at distance 1.
    apart: Matrix = np.eye(len(columns)) / np.sqrt(2)
    return apart
