"""The page of a transfer study: verdict, tables and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from manynet.records.rank_correlation import RankingQuality
from manynet.report.page import Section, heading, page, plot
from manynet.studies.transfer import figures
from manynet.studies.transfer.comparison import Target, Transfer
from manynet.studies.transfer.verdict import points, reading

PLAIN = ("device", "tau, all subnets", "subnets")
SCORED = (*PLAIN, "tau, front", "front", "mean loss", "largest loss", "not reached")


def transfer_page(title: str, transfer: Transfer, facts: Mapping[str, str]) -> str:
    """One HTML page that opens offline.

    Args:
        title: name of the study or table.
        transfer: result of the study.
        facts: further lines of the heading.
    """
    facts = {"found on": transfer.source, "metric": transfer.metric or "none", **facts}
    sections = [_reading(transfer), _targets(transfer), _picture(transfer), _matrix(transfer)]
    return page(f"{title}: transfer", heading(facts), "", sections)


def head(metric: str | None) -> tuple[str, ...]:
    """Names of a row's columns: without a metric there is no front."""
    return PLAIN if metric is None else SCORED


def cells(target: Target, metric: str | None) -> list[str]:
    """A target's row, in the order of ``head``; plain text."""
    row = [target.device, interval(target.tau), f"{target.tau.count:,}"]
    loss = target.loss
    if metric is None or loss is None:
        return row
    absent = f" (and {target.absent} not measured)" if target.absent else ""
    return [
        *row,
        interval(target.front_tau),
        f"{len(target.front)}{absent}",
        points(metric, loss.mean),
        points(metric, loss.largest),
        f"{loss.unreached} of {len(target.own)}",
    ]


def interval(tau: RankingQuality | None) -> str:
    """Tau and its 95% interval."""
    return "–" if tau is None else f"{tau.tau:.2f} [{tau.low:.2f}, {tau.high:.2f}]"


def _reading(transfer: Transfer) -> Section:
    note = "Computed from the figures below: an order is said to be kept where the whole 95% interval of tau is above 0.8."
    if transfer.metric is None:
        note += " There is no score of the subnets here, so only rank correlations are reported."
    listed = "".join(f"<li>{escape(line)}.</li>" for line in transfer.notes)
    return Section(
        "reading", "Does it hold elsewhere?", note, f"<p>{escape(reading(transfer))}</p><ul>{listed}</ul>"
    )


def _targets(transfer: Transfer) -> Section:
    note = "Kendall's tau-b of the latencies, with 95% bootstrap intervals."
    if transfer.metric is not None:
        note += (
            f" Both fronts are over the subnets measured on both devices. Loss: for each member of a device's own "
            f"front, its {escape(transfer.metric)} minus the best of the front found on {escape(transfer.source)} that is "
            "as fast there; members faster than all of that front are not reached. Fronts are chosen on the same noisy "
            "figures that they are compared by, so a small loss is no evidence of a difference."
        )
    rows = [cells(target, transfer.metric) for target in transfer.targets]
    return Section("targets", f"From {transfer.source} to", note, _table(head(transfer.metric), rows))


def _picture(transfer: Transfer) -> Section:
    draw = figures.latencies if transfer.metric is None else figures.landing
    note = (
        f"Latency on each device against latency on {escape(transfer.source)}."
        if transfer.metric is None
        else f"Orange is the front found on {escape(transfer.source)}, where it lands on each device; blue is the front "
        "found for the device itself. The gap between the lines is the loss."
    )
    plots = [
        f"<div><b>{escape(target.device)}</b>{plot(draw(transfer, target), f'target-{index}')}</div>"
        for index, target in enumerate(transfer.targets)
    ]
    return Section("picture", "Picture", note, f'<div class="grid">{"".join(plots)}</div>')


def _matrix(transfer: Transfer) -> Section:
    note = "Kendall's tau-b of the latencies on each two devices, over the subnets measured on both."
    rows = [
        [device, *("–" if value is None else f"{value:.2f}" for value in row)]
        for device, row in zip(transfer.devices, transfer.taus, strict=True)
    ]
    table = f"<details><summary>As a table</summary>{_table(['', *transfer.devices], rows)}</details>"
    return Section("matrix", "All devices", note, plot(figures.matrix(transfer), "matrix") + table)


def _table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'
