"""Parallel coordinates of choices and scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any

import plotly.graph_objects as go

from manynet.records.conditions import LATENCY
from manynet.records.formatting import is_percentage
from manynet.report.choices import in_order
from manynet.report.content import ReportContent
from manynet.report.figures import INK, layout

TICKED = 8
LABEL = 34


def parallel(content: ReportContent) -> go.Figure:
    """Parallel coordinates over metrics and varied choices."""
    keys = list(dict.fromkeys(key for record in content.records for key in record.architecture))
    rows = [(key, [record.architecture.get(key) for record in content.records]) for key in keys]
    varied = [(key, column) for key, column in rows if len(set(map(repr, column))) > 1]
    metrics = [(name, [record.metrics.get(name) for record in content.records]) for name in content.metrics]
    dimensions = [_dimension(name, column) for name, column in [*metrics, *varied]]
    colours = [record.metrics.get(content.colour, math.nan) for record in content.records]
    bar = {"title": {"text": escape(content.colour)}, "thickness": 12, "outlinewidth": 0}
    if is_percentage(content.colour):
        bar["tickformat"] = ".0%"
    figure = go.Figure(
        go.Parcoords(
            dimensions=dimensions,
            line={"color": colours, "colorscale": "Viridis", "showscale": True, "colorbar": bar},
            labelangle=-25,
            labelside="top",
            tickfont={"size": 10, "color": INK},
            rangefont={"size": 1, "color": "rgba(0,0,0,0)"},
        )
    )
    style = layout(460) | {"margin": {"l": 60, "r": 30, "t": 110, "b": 24}}
    # On a narrower plot the axes' labels would overlap; the page scrolls sideways instead.
    figure.update_layout(**style, width=max(1060, 92 * len(dimensions) + 160))
    return figure


def _dimension(name: str, column: Sequence[Any]) -> dict[str, Any]:
    """An axis of parallel coordinates: numbers as they are, anything else as evenly spaced ticks."""
    title = f"{name.removeprefix(LATENCY)} (ms)" if name.startswith(LATENCY) else name
    label = escape(title if len(title) <= LABEL else f"{title[: LABEL - 1]}…")
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in column)
    if numeric and len(set(column)) > TICKED:
        style = {"tickformat": ".0%"} if is_percentage(name) else {}
        return {"label": label, "values": column, **style}
    if numeric:
        return {"label": label, "values": column, "tickvals": sorted(set(column))}
    # An inactive choice has its own tick, at the bottom.
    options = sorted({value for value in column if value is not None}, key=in_order)
    ticks = [None, *options] if None in column else options
    return {
        "label": label,
        "values": [ticks.index(value) for value in column],
        "tickvals": list(range(len(ticks))),
        "ticktext": ["–" if tick is None else escape(str(tick)) for tick in ticks],
    }
