"""Formats metric values for display."""

from __future__ import annotations

import math

from manynet.records.conditions import LATENCY


def is_percentage(column: str) -> bool:
    """Whether a column is shown as a percentage."""
    return column.endswith("accuracy")


def show(column: str, value: float | None) -> str:
    """A column's value as text, with its unit."""
    if value is None or math.isnan(value):
        return "–"
    if is_percentage(column):
        return f"{value:.2%}"
    if column.startswith(LATENCY):
        return f"{value:.3g} ms"
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g} {letter}"
    return f"{value:.4g}"
