"""The space that a strategy is checked with where no other is given."""

from __future__ import annotations

from typing import Any

import torch
from ray import tune

from manynet import elastic
from manynet.space.search_space import SearchSpace, Supernet
from manynet.space.tasks import Classification


class Net(Supernet):
    """A width, and a layer that may be left out: input ``(B, 1, 8, 8)``. No statistics of batches."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = elastic.Conv2d(1, 8, 3, stride=2, padding=1)
        self.stem_norm = elastic.LayerNorm(8)
        self.hidden = elastic.Linear(8, 16)
        self.hidden_norm = elastic.LayerNorm(16)
        self.head = elastic.Linear(16, 10)

    def forward(self, x: torch.Tensor, arch: Any) -> torch.Tensor:
        width, hidden = arch["width"], arch["hidden"]
        tokens = self.stem(x, out_channels=width).permute(0, 2, 3, 1)
        pooled = self.stem_norm(tokens, width).relu().mean((1, 2))
        features = self.hidden_norm(self.hidden(pooled, hidden, width), hidden).relu()
        return self.head(features, in_features=hidden)  # type: ignore[no-any-return]


SPACE = SearchSpace(
    "strategy-check",
    {"width": tune.choice([4, 6, 8]), "hidden": tune.choice([8, 12, 16])},
    Net,
    Classification(10),
    (1, 8, 8),
    soft=("width", "hidden"),
)
