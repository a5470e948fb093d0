"""Embedding tables of categorical features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from manynet.elastic.layer import ChoiceError, Elastic

PADDING = -1
"""Id that stands for no value."""


class Table(NamedTuple):
    """One feature's table.

    Attributes:
        name: of the feature.
        rows: number of embeddings.
        values: most ids of an example.
    """

    name: str
    rows: int
    values: int = 1


class EmbeddingTables(Elastic):
    """Sums the embeddings of a feature's ids: TorchRec's embedding bag collection.

    The tables are plain parameters ``weight0``, ``weight1``, ... ``(rows, dim)``: a subnet runs, is exported and
    is loaded without TorchRec. :class:`manynet.learning.fused_tables.FusedTables` trains them with TorchRec.

    Args:
        tables: of the features, in the order of the ids.
        dim: features of an embedding.
    """

    def __init__(self, tables: Sequence[Table], dim: int) -> None:
        super().__init__()
        self.tables = tuple(tables)
        self.dim = dim
        for number, table in enumerate(self.tables):
            bound = table.rows**-0.5
            weight = torch.empty(table.rows, dim).uniform_(-bound, bound)
            self.register_parameter(f"weight{number}", nn.Parameter(weight))

    @property
    def weights(self) -> list[torch.Tensor]:
        """The tables, each ``(rows, dim)``."""
        return [self.get_tensor(f"weight{number}") for number in range(len(self.tables))]

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Map ids ``(B, ids)`` to embeddings ``(B, features, dim)``; an id of -1 adds nothing.

        Raises:
            ChoiceError: for another number of ids.
        """
        widths = [table.values for table in self.tables]
        if ids.shape[1] != sum(widths):
            raise ChoiceError(f"an example must have {sum(widths)} ids, but got {ids.shape[1]}")
        pairs = zip(ids.split(widths, dim=1), self.weights, strict=True)
        return torch.stack([_pooled(own, weight) for own, weight in pairs], dim=1)


def _pooled(ids: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Sum of the embeddings of ``(B, values)``: ``(B, dim)``."""
    if ids.shape[1] == 1:
        return F.embedding(ids[:, 0], weight)
    present = (ids != PADDING).to(weight.dtype).unsqueeze(-1)
    return (F.embedding(ids.clamp(min=0), weight) * present).sum(1)
