"""Features of click-through examples: dense numbers, and ids into embedding tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Categorical:
    """A feature whose values are rows of an embedding table.

    Attributes:
        name: of the feature, and of its column.
        rows: of its table; row 0 stands for a missing value.
        values: ids an example holds at most; more than one makes the feature multi-valued.
    """

    name: str
    rows: int
    values: int = 1


@dataclass(frozen=True)
class Features:
    """The features of every example of a data set, in their order.

    As tensors, a batch is dense ``(B, dense_width)`` float32 and ids ``(B, ids_width)`` int64. A feature owns
    ``values`` neighbouring columns of the ids; where an example has fewer values, the last of them are -1.

    Attributes:
        dense: names of the dense features.
        categorical: the categorical features.
    """

    dense: tuple[str, ...]
    categorical: tuple[Categorical, ...]

    @property
    def dense_width(self) -> int:
        """Columns of the dense tensor: one of zeros where there is no dense feature."""
        return max(1, len(self.dense))

    @property
    def ids_width(self) -> int:
        """Columns of the ids."""
        return sum(feature.values for feature in self.categorical)

    def preprocessing(self) -> dict[str, Any]:
        """Layout of a network's inputs."""
        tables = {table.name: {"rows": table.rows, "values": table.values} for table in self.categorical}
        return {"dense": list(self.dense), "categorical": tables}

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Features:
        """Inverse of :meth:`to_dict`."""
        return cls(
            tuple(content["dense"]), tuple(Categorical(**feature) for feature in content["categorical"])
        )
