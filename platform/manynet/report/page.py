"""The report's HTML: sections around the plots, and the tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from manynet.records.conditions import LATENCY
from manynet.records.formatting import show
from manynet.records.ledger import Record
from manynet.report import figures
from manynet.report.choice_tables import choice_tables
from manynet.report.choices import mixes, varied
from manynet.report.content import ReportContent, measurement
from manynet.report.parallel import parallel
from manynet.report.style import CSS
from manynet.storage import write_bytes

# The page can never load anything. Plotly's WebGL plots need 'unsafe-eval'.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; "
    "img-src data: blob:; font-src data:"
)
SUMMARY_CHOICES = 4
DRIFT = 0.2
"""Drift from which it is shown next to a device's measurements."""


@dataclass(frozen=True)
class Section:
    """One part of the page."""

    name: str
    title: str
    note: str
    body: str


def write_report(address: str | Path, content: ReportContent) -> None:
    """Write the report as one HTML file, to a local path or a pyarrow filesystem address.

    Raises:
        StorageError: the file cannot be written.
    """
    write_bytes(address, render(content).encode())


def render(content: ReportContent) -> str:
    """The whole page."""
    makers = (_pareto, _hypervolume, _chosen, _parallel, _training, _ranking, _finalists, _settings)
    sections = [maker(content) for maker in makers]
    return page(content.title, _facts(content), _summary(content), sections, content.refresh)


def page(title: str, facts: str, summary: str, sections: Sequence[Section], refresh: float = 0) -> str:
    """A page that opens offline; all arguments but ``title`` are HTML. Reloads after ``refresh`` seconds."""
    reload = f'<meta http-equiv="refresh" content="{refresh:g}">\n' if refresh else ""
    links = "".join(f'<a href="#{section.name}">{escape(section.title)}</a>' for section in sections)
    title = escape(title)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        f'{reload}<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title} · Manynet</title>\n<style>{CSS}</style>\n<script>{get_plotlyjs()}</script>\n</head>\n<body>\n"
        f"<header><div><h1>{title}</h1>{facts}</div><nav>{links}</nav></header>\n<main>\n"
        f"{summary}{''.join(map(_html, sections))}</main>\n</body>\n</html>\n"
    )


def _html(section: Section) -> str:
    note = f'<p class="note">{section.note}</p>' if section.note else ""
    return f'<section id="{section.name}"><h2>{escape(section.title)}</h2>{note}{section.body}</section>\n'


def plot(figure: go.Figure, name: str) -> str:
    """HTML of a figure; ``name`` must be unique on the page."""
    config = {"responsive": True, "displaylogo": False}
    html = figure.to_html(full_html=False, include_plotlyjs=False, config=config, div_id=f"plot-{name}")
    return f'<div class="plot">{html}</div>'


def _empty(why: str) -> str:
    return f'<p class="empty">{escape(why)}</p>'


def _facts(content: ReportContent) -> str:
    facts = {**content.facts, "objectives": ", ".join(map(str, content.objectives))}
    if content.conditions:
        facts["constraints"] = " and ".join(map(str, content.conditions))
    if content.refresh:
        facts["goes on"] = f"as of {datetime.now(UTC):%H:%M:%S} UTC, loads itself again"
    return heading(facts)


def heading(facts: Mapping[str, str]) -> str:
    """The line below the title."""
    return (
        '<p class="facts">'
        + " ".join(f"<span><b>{escape(key)}</b> {escape(value)}</span>" for key, value in facts.items())
        + "</p>"
    )


def _summary(content: ReportContent) -> str:
    count = f"{len(content.front)} on the Pareto front" if len(content.objectives) > 1 else ""
    cards = [("evaluations", f"{len(content.records)}", count)]
    for objective in content.objectives if content.front else ():
        best = (max if objective.maximise else min)(
            record.metrics[objective.column] for record in content.front
        )
        cards.append((f"best {objective.column}", show(objective.column, best), "shared weights"))
    if content.front and len(content.objectives) > 1 and len(content.records) > 1:
        cards.append(("hypervolume", f"{content.curve[-1]:.3f}", "of the box seen"))
    metric = content.metric
    tested = [
        record.metrics[f"test_{metric}"] for record in content.finalists if f"test_{metric}" in record.metrics
    ]
    if tested:
        cards.append(
            (f"best test {metric}", show(metric, max(tested)), f"{len(content.finalists)} finalists")
        )
    if content.baseline:
        name, value = content.baseline
        cards.append((name, show(metric, value), f"test {metric}, baseline"))
    if content.ranking:
        interval = f"Kendall tau, 95% {content.ranking.low:.2f} to {content.ranking.high:.2f}"
        cards.append(("ranking quality", f"{content.ranking.tau:.2f}", interval))
    tiles = (
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}<small>{escape(note)}</small></dd></div>"
        for name, value, note in cards
    )
    return f'<dl class="cards">{"".join(tiles)}</dl>\n'


def _pareto(content: ReportContent) -> Section:
    title, first, others = "Pareto front", content.objectives[0], content.objectives[1:]
    if not content.records:
        return Section("pareto", title, "", _empty("No architecture has been evaluated yet."))
    if not content.front:
        why = "No evaluated architecture has every objective and meets every constraint."
        return Section("pareto", title, "", _empty(why))
    table = f"<details><summary>As a table</summary>{_table(content, content.front, {})}</details>"
    if not others:
        note = "One objective: there is no front, so this is the best value as the search went on."
        return Section("pareto", "Best so far", note, plot(figures.best_so_far(content), "pareto") + table)
    plots = [plot(figures.pareto(content, x, first), f"pareto-{place}") for place, x in enumerate(others)]
    note = "Scores with shared weights; hover a point for its architecture."
    note += "".join(f" {escape(text)}" for text in _predictions(content))
    if len(others) > 1:
        note += " Blue points are on the front of all objectives together; a line outlines two of them."
    grid = f'<div class="grid">{"".join(plots)}</div>' if len(plots) > 1 else plots[0]
    return Section("pareto", title, note, grid + table)


def _predictions(content: ReportContent) -> list[str]:
    """For each column with predictions, their number and their quality."""
    texts = []
    for column in dict.fromkeys(objective.column for objective in content.objectives):
        measurements = [measurement(record, column) for record in content.records]
        predicted = [measured for measured in measurements if measured.get("source") == "predicted"]
        if predicted:
            texts.append(
                f"Of {column}, {len(measurements) - len(predicted)} were measured and {len(predicted)} predicted"
                f"{_quality(predicted[-1])}."
            )
    return texts


def _quality(prediction: Mapping[str, Any]) -> str:
    error, tau = prediction.get("error"), prediction.get("tau")
    if error is None or tau is None:
        return ""
    return f" with a cross-validated error of {error:.1%} and Kendall's tau of {tau:.2f}"


def _hypervolume(content: ReportContent) -> Section:
    title = "Hypervolume"
    if not content.front:
        return Section(
            "hypervolume", title, "", _empty("There is no Pareto front whose volume could be computed.")
        )
    if len(content.records) == 1:
        return Section(
            "hypervolume", title, "", _empty("One evaluation spans no box whose share could be told.")
        )
    if len(content.objectives) == 1:
        return Section("hypervolume", title, "", _empty("One objective has no volume: see the best so far."))
    note = (
        "Share of the box between the best and the worst value of each objective that the front dominates. "
        "A flat end means that more evaluations found nothing better."
    )
    return Section("hypervolume", title, note, plot(figures.hypervolume(content), "hypervolume"))


def _chosen(content: ReportContent) -> Section:
    title, members = "What the front chose", len(content.front)
    if members < 2:
        return Section("front", title, "", _empty("At least two architectures on the front are needed."))
    note = (
        f"The share of the {members} architectures on the front in which each option stands. Choices that were the "
        "same in all evaluated architectures are left out."
    )
    return Section("front", title, note, choice_tables(varied(mixes(content.front, content.records))))


def _parallel(content: ReportContent) -> Section:
    title = "Choices and metrics"
    if len(content.records) < 2:
        return Section("choices", title, "", _empty("At least two evaluated architectures are needed."))
    note = (
        f"One line an architecture, coloured by {escape(content.colour)}; choices that never varied are left out. "
        "Drag along an axis to keep only the lines that cross it there, drag a name to move its axis."
    )
    return Section("choices", title, note, f'<div class="wide">{plot(parallel(content), "choices")}</div>')


def _training(content: ReportContent) -> Section:
    title = "Supernet training"
    if not content.curves:
        return Section("training", title, "", _empty("No training curve was recorded."))
    note = "Training loss, and validation scores of the subnets that training watched."
    return Section("training", title, note, plot(figures.training(content.curves), "training"))


def _ranking(content: ReportContent) -> Section:
    title = "Ranking quality"
    if not content.anchors:
        why = "No anchor was trained alone, so how far the shared-weight ranking can be trusted is unknown."
        return Section("ranking", title, "", _empty(why))
    shown = plot(figures.ranking(content.anchors, content.ranking, content.metric), "ranking")
    if content.ranking is None:
        return Section("ranking", title, "Too few anchors for Kendall's tau.", shown)
    mark = "good" if content.ranking.carries_search else "bad"
    note = f'<span class="{mark}">{escape(content.ranking.verdict)}.</span> The interval is a 95% bootstrap.'
    return Section("ranking", title, note, shown)


def _finalists(content: ReportContent) -> Section:
    title = "Finalists"
    if not content.finalists:
        return Section("finalists", title, "", _empty("No finalist has been trained yet."))
    note = "Stand-alone models, after training of their own. The test split was used once, for these; ± is the interquartile range."
    best = content.objectives[0]
    ordered = sorted(
        content.finalists,
        key=lambda record: record.metrics.get(best.column, 0.0),
        reverse=best.maximise,
    )
    return Section("finalists", title, note, _table(content, ordered, content.links))


def _settings(content: ReportContent) -> Section:
    if not content.settings:
        return Section("settings", "Settings", "", _empty("No step is on record yet."))
    note = (
        "What each step was made with. Where a setting changed on the way, how much was made with each value."
    )
    tables = [
        f"<details><summary>{escape(step)}</summary><table><tbody>"
        + "".join(
            f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in settings.items()
        )
        + "</tbody></table></details>"
        for step, settings in content.settings.items()
    ]
    return Section("settings", "Settings", note, "".join(tables))


def _table(content: ReportContent, records: Sequence[Record], links: Mapping[str, Sequence[str]]) -> str:
    existing = dict.fromkeys(column for record in records for column in record.metrics)
    standard = (content.metric, f"test_{content.metric}", "parameters", "macs")
    objectives = [objective.column for objective in content.objectives]
    latencies = [name for name in existing if name.startswith(LATENCY)]
    columns = list(
        dict.fromkeys([*(name for name in [*standard, *objectives] if name in existing), *latencies])
    )
    cells: list[tuple[str, Callable[[Record], str]]] = [("architecture", architecture)]
    cells += [(name, lambda record, name=name: _value(record, name)) for name in columns]  # type: ignore[misc]
    if any(links.get(record.key) for record in records):
        cells.append(("files", lambda record: _files(links.get(record.key, ()))))
    head = "".join(f"<th>{escape(name)}</th>" for name, _ in cells)
    body = "".join(
        f"<tr>{''.join(f'<td>{cell(record)}</td>' for _, cell in cells)}</tr>" for record in records
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _value(record: Record, column: str) -> str:
    text = escape(show(column, record.metrics.get(column)))
    measured = measurement(record, column)
    if not measured:
        return text
    source = str(measured.get("source", "measured"))
    notes = [source] if source != "measured" else []
    notes += ["unsteady"] if not measured.get("steady", True) else []
    drift = float(measured.get("drift", 0))
    notes += [f"drifted {drift:+.0%}"] if abs(drift) > DRIFT else []
    return f"{text} <small>± {float(measured.get('spread', 0)):.0%} {escape(', '.join(notes))}</small>"


def architecture(record: Record) -> str:
    """A record's choices; all but the first few are folded."""
    choices = [f"{key} = {value}" for key, value in record.architecture.items()]
    if len(choices) <= SUMMARY_CHOICES:
        return f"<code>{escape(', '.join(choices))}</code>"
    shown = escape(", ".join(choices[:SUMMARY_CHOICES]))
    rest = "<br>".join(map(escape, choices[SUMMARY_CHOICES:]))
    return f"<details><summary><code>{shown}, …</code></summary><code>{rest}</code></details>"


def _files(links: Sequence[str]) -> str:
    return " ".join(
        f'<a href="{escape(quote(link))}">{escape(PurePosixPath(link).name)}</a>' for link in links
    )
