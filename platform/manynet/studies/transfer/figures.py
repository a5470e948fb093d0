"""The plots of a transfer study, as Plotly figures."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go

from manynet.records.conditions import LATENCY
from manynet.records.formatting import is_percentage, show
from manynet.records.ledger import Record
from manynet.report.figures import COLOURS, FAINT, GRID, LOG_RATIO, MUTED, layout
from manynet.studies.transfer.comparison import Target, Transfer, pareto_front, with_columns

OWN, TRANSFERRED = COLOURS[0], COLOURS[1]
CHOICES = 6
MOST_NAMED = 2_000
# Useful values of tau are 0.5 to 1, which get most of the colour range; below 0 is another hue.
SCALE = ((0.0, "#c2410c"), (0.5, "#fff7ed"), (0.75, "#dbeafe"), (0.9, "#60a5fa"), (1.0, "#1e40af"))


def landing(transfer: Transfer, target: Target) -> go.Figure:
    """Metric against latency on a target: all subnets measured on both, its own front, and the source's front there."""
    assert transfer.metric is not None
    metric, device = transfer.metric, target.device
    subnets = with_columns(transfer.records, metric, LATENCY + transfer.source, LATENCY + device)
    still_optimal = pareto_front(target.front, metric, device)
    figure = go.Figure()
    figure.add_trace(_dots("all subnets", subnets, transfer, target, color=FAINT, size=6))
    figure.add_trace(_steps(target.own, metric, device, OWN, "solid"))
    figure.add_trace(_steps(still_optimal, metric, device, TRANSFERRED, "dot"))
    figure.add_trace(_dots("its own front", target.own, transfer, target, color=OWN, size=10))
    figure.add_trace(_dots("transferred front", target.front, transfer, target, color=TRANSFERRED, size=7))
    figure.update_layout(
        **layout(360, legend=True),
        xaxis=_axis("latency (ms)", device, subnets),
        yaxis={"title": escape(metric), "tickformat": ".0%" if is_percentage(metric) else None},
    )
    return figure


def latencies(transfer: Transfer, target: Target) -> go.Figure:
    """Latency on a target against latency on the source, of every subnet measured on both."""
    source, device = transfer.source, target.device
    both = with_columns(transfer.records, LATENCY + source, LATENCY + device)
    figure = go.Figure()
    # The text of thousands of architectures would be most of the page.
    named = len(both) <= MOST_NAMED
    figure.add_scatter(
        x=np.array([record.metrics[LATENCY + source] for record in both]),
        y=np.array([record.metrics[LATENCY + device] for record in both]),
        mode="markers",
        marker={"color": OWN, "size": 5, "opacity": 0.5},
        text=[_choices(record) for record in both] if named else None,
        hovertemplate=f"%{{x:.3g}} ms, %{{y:.3g}} ms{'<br>%{text}' if named else ''}<extra></extra>",
    )
    figure.update_layout(
        **layout(340),
        xaxis=_axis(f"ms on {source}", source, both),
        yaxis=_axis("latency (ms)", device, both),
    )
    return figure


def matrix(transfer: Transfer) -> go.Figure:
    """Kendall's tau among all devices, as a heat map."""
    devices = [escape(device) for device in transfer.devices]
    count = len(devices)
    figure = go.Figure(
        go.Heatmap(
            z=transfer.taus,
            x=list(range(count)),
            y=list(range(count)),
            zmin=-1,
            zmax=1,
            colorscale=SCALE,
            texttemplate="%{z:.2f}",
            textfont={"size": 13 if count <= 10 else 10},
            xgap=2,
            ygap=2,
            hoverongaps=False,
            customdata=[[f"{row} and {column}" for column in devices] for row in devices],
            hovertemplate="%{customdata}: tau %{z:.3f}<extra></extra>",
            colorbar={"title": "tau", "thickness": 12, "outlinewidth": 0},
        )
    )
    ticks: dict[str, Any] = {"tickvals": list(range(count)), "ticktext": devices, "showgrid": False}
    style = layout(max(260, 34 * count + 190))
    style["margin"] = {"l": 10, "r": 20, "t": 20, "b": 10}
    figure.update_layout(
        **style,
        xaxis={**ticks, "tickangle": -30, "automargin": True},
        yaxis={**ticks, "autorange": "reversed", "automargin": True},
    )
    return figure


def _dots(
    name: str, records: Sequence[Record], transfer: Transfer, target: Target, *, color: str, size: int
) -> go.Scatter:
    assert transfer.metric is not None
    columns = [transfer.metric, LATENCY + target.device, LATENCY + transfer.source]
    return go.Scatter(
        x=[record.metrics[LATENCY + target.device] for record in records],
        y=[record.metrics[transfer.metric] for record in records],
        name=escape(name),
        mode="markers",
        marker={"color": color, "size": size, "line": {"width": 1, "color": "white"}},
        text=[_hover(record, columns) for record in records],
        hoverinfo="text",
    )


def _steps(front: Sequence[Record], metric: str, device: str, colour: str, dash: str) -> go.Scatter:
    """The best metric up to each latency."""
    return go.Scatter(
        x=[record.metrics[LATENCY + device] for record in front],
        y=[record.metrics[metric] for record in front],
        mode="lines",
        line={"color": colour, "width": 1.5, "shape": "hv", "dash": dash},
        showlegend=False,
        hoverinfo="skip",
    )


def _axis(title: str, device: str, records: Sequence[Record]) -> dict[str, Any]:
    axis: dict[str, Any] = {"title": escape(title), "gridcolor": GRID}
    values = [record.metrics[LATENCY + device] for record in records]
    if values and min(values) > 0 and max(values) / min(values) > LOG_RATIO:
        # Digits between powers of ten would run into each other in a small plot.
        axis |= {"type": "log", "dtick": 1, "minor": {"ticks": "outside", "tickcolor": MUTED}}
    return axis


def _hover(record: Record, columns: Sequence[str]) -> str:
    lines = [f"{escape(column)}  {show(column, record.metrics[column])}" for column in columns]
    return "<br>".join([*lines, _choices(record)])


def _choices(record: Record) -> str:
    choices = [f"{escape(str(key))} = {escape(str(value))}" for key, value in record.architecture.items()]
    lines = [", ".join(choices[start : start + 3]) for start in range(0, min(len(choices), CHOICES), 3)]
    if len(choices) > CHOICES:
        lines.append(f"… and {len(choices) - CHOICES} more choices")
    return "<br>".join(lines)
