"""Text plots for terminals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

BARS = "▁▂▃▄▅▆▇█"
POINT = "●"


class Axis(NamedTuple):
    """One axis of a plot.

    Attributes:
        name: its title.
        low: its smallest value, as text.
        high: its largest value, as text.
    """

    name: str
    low: str
    high: str


def sparkline(values: Sequence[float], width: int) -> str:
    """A curve in one line of at most ``width`` characters, from its smallest to its largest value."""
    if not values or width < 1:
        return ""
    count = min(width, len(values))
    # The last value of each bin, so that a curve ends at its current value.
    shown = [values[(index + 1) * len(values) // count - 1] for index in range(count)]
    low, high = min(shown), max(shown)
    return "".join(BARS[_place(value, low, high, len(BARS))] for value in shown)


def scatter(points: Sequence[tuple[float, float]], x: Axis, y: Axis, width: int, height: int) -> list[str]:
    """Points between two axes that reach from the smallest to the largest value, as lines of text.

    Args:
        points: (x, y); not empty.
        x: the horizontal axis.
        y: the vertical axis.
        width: of the whole in characters.
        height: of the whole in lines: at least 5.
    """
    margin = max(len(y.low), len(y.high))
    columns, rows = max(1, width - margin - 1), max(1, height - 3)
    xs, ys = [point[0] for point in points], [point[1] for point in points]
    cells = [[" "] * columns for _ in range(rows)]
    for at, up in points:
        row = rows - 1 - _place(up, min(ys), max(ys), rows)
        cells[row][_place(at, min(xs), max(xs), columns)] = POINT
    labels = [""] * rows
    labels[-1], labels[0] = y.low, y.high
    lines = [f"{label:>{margin}}│{''.join(cell)}" for label, cell in zip(labels, cells, strict=True)]
    between = columns - len(x.low) - len(x.high)
    name = x.name if len(x.name) + 2 <= between else ""
    below = f"{x.low}{name:^{max(0, between)}}{x.high}"
    return [
        f"{'':{margin}} {y.name}"[:width],
        *lines,
        f"{'':{margin}}└{'─' * columns}",
        f"{'':{margin}} {below}",
    ]


def _place(value: float, low: float, high: float, count: int) -> int:
    """Bin of a value, of ``count`` equal bins; the middle one for an empty range."""
    return round((value - low) / (high - low) * (count - 1)) if high > low else (count - 1) // 2
