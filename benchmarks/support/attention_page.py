"""The page of ``attention_crossover``: both kinds of attention against tokens, and what searches chose of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from manynet.report.choices import NOT_THERE, Mix
from manynet.report.figures import COLOURS as SERIES
from manynet.report.figures import FAINT, FINALIST, FRONT, GRID, INK, MUTED, layout
from manynet.report.page import Section, heading, page, plot

KINDS = ("softmax", "linear-angular")
COLOURS = {"softmax": FINALIST, "linear-angular": FRONT, NOT_THERE: FAINT}
COLUMNS = 3
"""Panels side by side."""
TICKS = (50, 100, 200, 500, 1000, 2000)
RATIO_TICKS = (0.1, 0.2, 0.5, 1, 2, 5)
Curves = Mapping[str, Mapping[str, Mapping[int, float]]]


@dataclass(frozen=True)
class FrontMix:
    """What a study's front chose for the attention of each block.

    Attributes:
        tokens: that the front's architectures have.
        members: architectures on the front.
        mix: shares of them.
    """

    tokens: Sequence[int]
    members: int
    mix: Mix

    @property
    def title(self) -> str:
        """Tokens, from the fewest to the most, and the size of the front."""
        ends = " to ".join(str(tokens) for tokens in sorted({min(self.tokens), max(self.tokens)}))
        return f"{ends} tokens, {self.members} on the front"


def write_page(
    file: Path, curves: Curves, crossovers: Mapping[str, float | None], studies: Sequence[FrontMix]
) -> None:
    """Write one HTML file that opens offline."""
    note = (
        "Lower is better; both axes are logarithmic. Latency is the time of one image on one thread. From the dotted line "
        "on, linear-angular attention takes less."
    )
    sections = [
        Section("curves", "Cost against tokens", note, plot(against_tokens(curves, crossovers), "curves"))
    ]
    if studies:
        note = (
            "For each block, the share of the architectures on the Pareto front of accuracy and latency that have softmax or "
            "linear-angular attention there, or that are not so deep."
        )
        body = plot(chosen(studies), "fronts")
        sections.append(Section("fronts", "What searches chose, block by block", note, body))
    facts = {"block": "qkv, attention, output projection", "width": "192", "heads": "3", "batch": "1"}
    file.write_text(page("Softmax and linear-angular attention", heading(facts), "", sections))


def against_tokens(curves: Curves, crossovers: Mapping[str, float | None]) -> go.Figure:
    """A panel for each tool and for multiply-adds, and one of the ratios of all."""
    rows = math.ceil((len(curves) + 1) / COLUMNS)
    titles = [f"<b>{name}</b>" for name in curves] + ["<b>linear-angular / softmax</b>"]
    figure = make_subplots(
        rows=rows, cols=COLUMNS, subplot_titles=titles, horizontal_spacing=0.075, vertical_spacing=0.16
    )
    for index, (name, kinds) in enumerate(curves.items()):
        place: dict[str, Any] = {"row": index // COLUMNS + 1, "col": index % COLUMNS + 1}
        for kind in KINDS:
            figure.add_trace(
                _line(kind, kinds[kind], COLOURS[kind], markers=index > 0, shown=index == 0), **place
            )
        figure.update_yaxes(title_text="latency (ms)" if index else "multiply-adds", **place)
        if (found := crossovers[name]) is not None:
            _mark(figure, found, place)
    figure.update_xaxes(
        type="log",
        title={"text": "tokens", "standoff": 4},
        tickvals=TICKS,
        gridcolor=GRID,
        range=_range(curves),
    )
    figure.update_yaxes(type="log", gridcolor=GRID, dtick=1, exponentformat="SI")
    figure.update_layout(**layout(330 * rows, legend=True, titles=True))
    _ratios(figure, curves, {"row": rows, "col": len(curves) % COLUMNS + 1})
    return figure


def chosen(studies: Sequence[FrontMix]) -> go.Figure:
    """Bars of shares, a panel for each study, a bar for each block."""
    figure = make_subplots(
        rows=1,
        cols=len(studies),
        shared_yaxes=True,
        subplot_titles=[f"<b>{one.title}</b>" for one in studies],
    )
    told: set[str] = set()
    for column, one in enumerate(studies, 1):
        blocks = [key.rpartition(".")[0] for key in one.mix.counts]
        for option in (*KINDS, NOT_THERE):
            if option not in one.mix.columns:
                continue
            at = one.mix.columns.index(option)
            shares = [one.mix.shares(key)[at] for key in one.mix.counts]
            bars = go.Bar(
                x=blocks, y=shares, name=option, legendgroup=option, showlegend=option not in told,
                marker={"color": COLOURS[option]}, text=[f"{share:.0%}" if share else "" for share in shares],
                textposition="inside", insidetextanchor="middle", textangle=0,
                hovertemplate="%{x}: %{y:.0%}<extra>" + option + "</extra>",
            )  # fmt: skip
            figure.add_trace(bars, row=1, col=column)
            told.add(option)
    figure.update_layout(**layout(360, legend=True, titles=True), barmode="stack", bargap=0.25)
    figure.update_yaxes(tickformat=".0%", range=[0, 1.001], gridcolor=GRID)
    figure.update_yaxes(title_text="share of the front", col=1)
    return figure


def _range(curves: Curves) -> list[float]:
    """Logarithms of the fewest and the most tokens, with some room."""
    tokens = [tokens for kinds in curves.values() for row in kinds.values() for tokens in row]
    return [math.log10(min(tokens)) - 0.06, math.log10(max(tokens)) + 0.06]


def _line(
    name: str, values: Mapping[int, float], colour: str, *, markers: bool, shown: bool, unit: str = ""
) -> go.Scatter:
    return go.Scatter(
        x=list(values),
        y=list(values.values()),
        name=name,
        legendgroup=name,
        showlegend=shown,
        mode="lines+markers" if markers else "lines",
        line={"color": colour, "width": 2.5},
        marker={"size": 7},
        hovertemplate="%{x} tokens: %{y:.3s}" + unit + "<extra>" + name + "</extra>",
    )


def _mark(figure: go.Figure, tokens: float, place: Mapping[str, Any]) -> None:
    """A line at the crossover, and its tokens in writing."""
    figure.add_vline(x=tokens, line={"color": MUTED, "width": 1.5, "dash": "dot"}, **place)
    figure.add_annotation(
        text=f" {tokens:.0f} tokens", x=math.log10(tokens), y=0.04, yref="y domain", xanchor="left", showarrow=False,
        font={"color": INK, "size": 12}, **place,
    )  # fmt: skip


def _ratios(figure: go.Figure, curves: Curves, place: Mapping[str, Any]) -> None:
    """Linear-angular over softmax: below 1 it takes less."""
    # The first two colours are those of the kinds of attention.
    for (name, kinds), colour in zip(curves.items(), (MUTED, *SERIES[2:]), strict=False):
        softmax, angular = (kinds[kind] for kind in KINDS)
        values = {tokens: angular[tokens] / softmax[tokens] for tokens in softmax}
        line = _line(name, values, colour, markers=colour != MUTED, shown=True, unit=" x")
        figure.add_trace(line.update(legend="legend2", line={"width": 2}), **place)
    figure.add_hline(y=1, line={"color": INK, "width": 1}, **place)
    figure.update_yaxes(title_text="ratio", tickvals=RATIO_TICKS, exponentformat="none", **place)
    # Beside the legend of the kinds, below the panels.
    shared = layout(0, legend=True)["legend"]
    figure.update_layout(legend2={**shared, "x": 1, "xanchor": "right"})
