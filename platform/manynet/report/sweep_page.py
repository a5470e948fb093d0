"""Report of a sweep: the studies' finalists, with links to the studies' reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

from manynet.records.conditions import Objective
from manynet.records.formatting import show
from manynet.records.ledger import Record
from manynet.report import figures
from manynet.report.page import Section, architecture, heading, page, plot
from manynet.storage import write_bytes

COST = Objective("macs", maximise=False)


def write_sweep_report(
    address: str | Path,
    title: str,
    metric: str,
    finalists: Mapping[str, Sequence[Record]],
    facts: Mapping[str, str],
) -> None:
    """Write one HTML file that opens offline.

    Args:
        address: local path or pyarrow filesystem address.
        title: of the page.
        metric: a column of the finalists; larger is better.
        finalists: of each study, by the name of its folder next to the page.
        facts: lines of the heading.

    Raises:
        StorageError: the file cannot be written.
    """
    score = Objective(metric, maximise=True)
    scored = {
        name: [record for record in records if metric in record.metrics]
        for name, records in finalists.items()
    }
    body = _table(scored, metric)
    if any(scored.values()):
        body = plot(figures.studies(scored, COST, score), "finalists") + body
    note = (
        "Stand-alone models. The test split was used once for each; a study's name leads to its own report."
    )
    sections = [Section("finalists", "Finalists of all studies", note, body)]
    write_bytes(address, page(title, heading(facts), "", sections).encode())


def _table(finalists: Mapping[str, Sequence[Record]], metric: str) -> str:
    columns = [metric, metric.removeprefix("test_"), "macs", "parameters"]
    head = "".join(f"<th>{escape(name)}</th>" for name in ("study", "architecture", *columns))
    rows = (
        f'<tr><td><a href="{quote(name)}/report.html">{escape(name)}</a></td><td>{architecture(record)}</td>'
        + "".join(f"<td>{show(column, record.metrics.get(column))}</td>" for column in columns)
        + "</tr>"
        for name, records in finalists.items()
        for record in records
    )
    return (
        f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    )
