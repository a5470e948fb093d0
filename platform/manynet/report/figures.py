"""The report's plots, as Plotly figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from manynet.records.conditions import LATENCY, Objective
from manynet.records.formatting import is_percentage, show
from manynet.records.ledger import Record
from manynet.records.pareto import front as non_dominated
from manynet.records.rank_correlation import RankingQuality
from manynet.report.content import ReportContent, measurement

INK, MUTED, FAINT, GRID = "#1f2937", "#8a94a6", "#cbd2dc", "#e8ebf0"
OUTSIDE = "#b4bccb"
FRONT, FINALIST, THIRD = "#2563eb", "#ea580c", "#0d9488"
COLOURS = (FRONT, FINALIST, THIRD, "#7c3aed", "#ca8a04", "#db2777", "#4b5563", "#65a30d")
# One shape for each source of latency, so that predictions are not mistaken for measurements.
SYMBOLS = {"measured": "circle", "predicted": "diamond-open", "table": "square-open"}
HOVER_CHOICES = 24
LOG_RATIO = 30.0


def layout(height: int, *, legend: bool = False, titles: bool = False) -> dict[str, Any]:
    """Layout options of all plots, with optional space for a legend below and titles above."""
    return {
        "height": height,
        "template": "plotly_white",
        "font": {"family": "system-ui, sans-serif", "size": 12, "color": INK},
        "margin": {"l": 70, "r": 20, "t": 52 if titles else 30, "b": 90 if legend else 54},
        "legend": {"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom", "x": 0},
        "modebar": {
            "bgcolor": "rgba(0,0,0,0)",
            "color": FAINT,
            "activecolor": INK,
            "remove": ["select2d", "lasso2d"],
        },
        "hoverlabel": {
            "bgcolor": "white",
            "bordercolor": GRID,
            "align": "left",
            "font": {"size": 11, "color": INK},
        },
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
    }


def pareto(content: ReportContent, x: Objective, y: Objective) -> go.Figure:
    """Scatter plot of all records over two objectives, with the front's outline and the finalists."""
    figure = go.Figure()
    outside = [record for record in content.records if not content.feasible(record)]
    inside = [record for record in content.records if content.feasible(record)]
    figure.add_trace(
        _points("outside the constraints", outside, x, y, color=FAINT, symbol="x-thin", size=7, edge=OUTSIDE)
    )
    sources = [_source(record, x, y) for record in inside]
    for source in dict.fromkeys(sources):
        records = [record for record, own in zip(inside, sources, strict=True) if own == source]
        name = f"evaluated ({source})" if source else "evaluated"
        figure.add_trace(
            _points(name, records, x, y, color=MUTED, symbol=SYMBOLS.get(source, "circle"), size=7)
        )
    figure.add_trace(_outline(content.front, x, y))
    symbols = [SYMBOLS.get(_source(record, x, y), "circle") for record in content.front]
    figure.add_trace(_points("", content.front, x, y, color=FRONT, symbol=symbols, size=9))
    figure.add_trace(
        _points("finalists", content.finalists, x, y, color=FINALIST, symbol="star", size=16, edge="white")
    )
    figure.update_layout(
        **layout(440, legend=True), xaxis=_axis(x.column, inside), yaxis=_axis(y.column, inside)
    )
    return figure


def best_so_far(content: ReportContent) -> go.Figure:
    """The only objective of every record, and the best value so far."""
    objective = content.objectives[0]
    values = content.values[:, 0]
    steps = np.arange(1, len(values) + 1)
    best = np.fmax.accumulate(values) if objective.maximise else np.fmin.accumulate(values)
    hover = [_hover(record, [objective.column]) for record in content.records]
    figure = go.Figure()
    figure.add_scatter(
        x=steps,
        y=values,
        mode="markers",
        name="evaluated",
        marker={"color": MUTED, "size": 7},
        text=hover,
        hoverinfo="text",
    )
    figure.add_scatter(
        x=steps, y=best, mode="lines", name="best so far", line={"color": FRONT, "shape": "hv"}
    )
    figure.update_layout(
        **layout(420, legend=True),
        xaxis={"title": "evaluations"},
        yaxis=_axis(objective.column, content.records),
    )
    return figure


def hypervolume(content: ReportContent) -> go.Figure:
    """Hypervolume against the number of evaluations."""
    steps = np.arange(1, len(content.curve) + 1)
    figure = go.Figure()
    figure.add_scatter(
        x=steps,
        y=content.curve,
        mode="lines",
        line={"color": FRONT, "shape": "hv", "width": 2},
        fill="tozeroy",
        fillcolor="rgba(37, 99, 235, 0.08)",
        hovertemplate="after %{x} evaluations: %{y:.3f}<extra></extra>",
    )
    figure.update_layout(
        **layout(300), xaxis={"title": "evaluations"}, yaxis={"title": "hypervolume", "range": [0, 1.02]}
    )
    return figure


def training(curves: Sequence[Mapping[str, float]]) -> go.Figure:
    """Loss, scores of the monitored subnets, learning rate, and logged values of the strategy, over steps."""
    names = [name for name in dict.fromkeys(name for row in curves for name in row) if name != "step"]
    branch = [
        name for name in names if name in ("threshold", "regulariser", "open") or name.startswith("open/")
    ]
    panels = {
        "loss": [name for name in names if name.endswith("loss")],
        "validation": [
            name for name in names if "/" in name and not name.endswith("loss") and name not in branch
        ],
        "learning rate": [name for name in names if name == "learning_rate"],
        "auxiliary branch": branch,
    }
    strategy = [name for name in names if not any(name in members for members in panels.values())]
    panels |= {
        "cost": [name for name in strategy if name.startswith(("expected_", "found_"))],
        "search": [name for name in strategy if not name.startswith(("expected_", "found_"))],
    }
    panels = {title: members for title, members in panels.items() if members}
    figure = make_subplots(rows=1, cols=max(1, len(panels)), subplot_titles=list(panels))
    for place, members in enumerate(panels.values(), start=1):
        for index, name in enumerate(members):
            # Scheduled values are inputs, so they are muted.
            scheduled = name in ("learning_rate", "threshold")
            colour = MUTED if scheduled else COLOURS[index % len(COLOURS)]
            steps, values = zip(*((row["step"], row[name]) for row in curves if name in row), strict=True)
            trace = go.Scatter(
                x=steps, y=values, name=escape(name), mode="lines+markers" if len(steps) < 40 else "lines",
                line={"color": colour, "width": 2}, marker={"size": 5},
            )  # fmt: skip
            figure.add_trace(trace, row=1, col=place)
        percentages = all(map(is_percentage, members))
        figure.update_yaxes(tickformat=".0%" if percentages else None, row=1, col=place)
        figure.update_xaxes(title_text="step", row=1, col=place)
    figure.update_layout(**layout(380, legend=True, titles=True))
    return figure


def ranking(anchors: Sequence[tuple[float, float]], quality: RankingQuality | None, metric: str) -> go.Figure:
    """The metric with shared weights against the metric trained alone."""
    form, ticks = (".2%", ".1%") if is_percentage(metric) else (".4f", None)
    shared, alone = zip(*anchors, strict=True)
    figure = go.Figure()
    figure.add_scatter(
        x=shared,
        y=alone,
        mode="markers",
        marker={"color": FRONT, "size": 10, "line": {"color": "white", "width": 1}},
        hovertemplate=f"shared %{{x:{form}}}<br>alone %{{y:{form}}}<extra></extra>",
    )
    if quality is not None:
        figure.add_annotation(
            text=escape(str(quality)), x=0.02, y=0.98, xref="paper", yref="paper", showarrow=False,
            xanchor="left", yanchor="top", bgcolor="rgba(255,255,255,0.85)", font={"size": 13, "color": INK},
        )  # fmt: skip
    figure.update_layout(
        **layout(360),
        xaxis={"title": f"{escape(metric)} with shared weights", "tickformat": ticks},
        yaxis={"title": f"{escape(metric)} trained alone", "tickformat": ticks},
    )
    return figure


def studies(finalists: Mapping[str, Sequence[Record]], x: Objective, y: Objective) -> go.Figure:
    """Scatter plot of several studies' finalists over two columns, with their joint front."""
    every = [record for records in finalists.values() for record in records]
    values = [[record.metrics[x.column], record.metrics[y.column]] for record in every]
    best = [every[index] for index in non_dominated(np.array(values), [x.maximise, y.maximise])]
    figure = go.Figure(_outline(best, x, y))
    for number, (name, records) in enumerate(finalists.items()):
        colour = COLOURS[number % len(COLOURS)]
        figure.add_trace(
            _points(escape(name), records, x, y, color=colour, symbol="circle", size=11, edge="white")
        )
    figure.update_layout(
        **layout(460, legend=True), xaxis=_axis(x.column, every), yaxis=_axis(y.column, every)
    )
    return figure


def _points(
    name: str,
    records: Sequence[Record],
    x: Objective,
    y: Objective,
    *,
    color: str,
    symbol: str | list[str],
    size: int,
    edge: str | None = None,
) -> go.Scatter:
    complete = [record for record in records if x.column in record.metrics and y.column in record.metrics]
    return go.Scatter(
        x=[record.metrics[x.column] for record in complete],
        y=[record.metrics[y.column] for record in complete],
        name=name,
        mode="markers",
        visible=bool(complete),
        showlegend=bool(name),
        marker={"color": color, "symbol": symbol, "size": size, "line": {"width": 1, "color": edge or color}},
        text=[_hover(record, [y.column, x.column]) for record in complete],
        hoverinfo="text",
    )


def _outline(front: Sequence[Record], x: Objective, y: Objective) -> go.Scatter:
    """Boundary of the region that the front dominates in these two objectives."""
    pairs = np.array([[record.metrics[x.column], record.metrics[y.column]] for record in front]).reshape(
        -1, 2
    )
    edge = pairs[non_dominated(pairs, [x.maximise, y.maximise])]
    edge = edge[np.argsort(edge[:, 0])]
    return go.Scatter(
        x=edge[:, 0], y=edge[:, 1], mode="lines", name="Pareto front", hoverinfo="skip",
        line={"color": FRONT, "width": 1.5, "shape": "vh" if x.maximise else "hv"},
    )  # fmt: skip


def _source(record: Record, x: Objective, y: Objective) -> str:
    sources = [measurement(record, column).get("source", "") for column in (x.column, y.column)]
    return next((str(source) for source in sources if source), "")


def _hover(record: Record, first: Sequence[str]) -> str:
    columns = dict.fromkeys([*first, *record.metrics])
    lines = [
        f"<b>{escape(name)}  {show(name, record.metrics.get(name))}</b>{_spread(record, name)}"
        for name in columns
    ]
    choices = [f"{escape(str(key))} = {escape(str(value))}" for key, value in record.architecture.items()]
    rows = [", ".join(choices[start : start + 2]) for start in range(0, min(len(choices), HOVER_CHOICES), 2)]
    if len(choices) > HOVER_CHOICES:
        rows.append(f"… and {len(choices) - HOVER_CHOICES} more choices")
    return "<br>".join([*lines, "", *rows])


def _spread(record: Record, column: str) -> str:
    measured = measurement(record, column)
    if not measured:
        return ""
    return f"  ± {float(measured.get('spread', 0)):.0%}, {escape(str(measured.get('source', '')))}"


def _axis(column: str, records: Sequence[Record]) -> dict[str, Any]:
    unit = " (ms)" if column.startswith(LATENCY) else ""
    axis: dict[str, Any] = {"title": {"text": escape(column) + unit}}
    values = [record.metrics[column] for record in records if column in record.metrics]
    if is_percentage(column):
        axis["tickformat"] = ".1%" if values and np.ptp(values) < 0.1 else ".0%"
    elif values and min(values) > 0 and max(values) / min(values) > LOG_RATIO:
        axis["type"] = "log"
    return axis
