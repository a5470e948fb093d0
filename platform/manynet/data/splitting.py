"""Stratified split into training, validation and test."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from manynet.data.base import DataError, generator

Rows = NDArray[np.int64]
HELD_OUT = 0.1
NAMES = {
    "train": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "test": "test",
}


class Parts(NamedTuple):
    """Row numbers of the three splits, each shuffled."""

    train: Rows
    validation: Rows
    test: Rows


def split(labels: NDArray[np.int64], given: Mapping[str, Rows], seed: int) -> Parts:
    """Complete the splits of a data set; missing ones are drawn from its training split.

    A tenth goes to each missing split, stratified by class. Every split is shuffled, so that its first batches
    hold all classes: normalisation is calibrated on them.

    Args:
        labels: `(N,)`, of all rows.
        given: rows of the splits the data set names; at least `train`.
        seed: of draws and shuffles.

    Raises:
        DataError: if a split would be empty.
    """
    random = generator("split", seed)
    parts = dict(given)
    missing = [name for name in ("validation", "test") if name not in parts]
    held_out = round(len(parts["train"]) * HELD_OUT)
    for name in missing:
        parts[name], parts["train"] = _take(labels, parts["train"], held_out, random)
    for name, rows in parts.items():
        if not len(rows):
            raise DataError(
                f"each split must hold at least one example, but {name} is empty ({len(labels)} examples in all)"
            )
    return Parts(**{name: random.permutation(parts[name]) for name in Parts._fields})


def _take(
    labels: NDArray[np.int64], rows: Rows, count: int, random: np.random.Generator
) -> tuple[Rows, Rows]:
    """Draw `count` of `rows`, stratified by class; return them and the rest."""
    rows = random.permutation(rows)
    rows = rows[np.argsort(labels[rows], kind="stable")]
    # Every (N / count)-th of the rows in order of class: exact in number, within one of each class's share.
    phase = random.integers(max(1, len(rows)))
    taken = np.diff((np.arange(len(rows) + 1) * count + phase) // max(1, len(rows))) > 0
    return rows[taken], rows[~taken]
