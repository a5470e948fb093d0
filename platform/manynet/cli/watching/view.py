"""Renders the status of runs: a page for terminals, a line elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from manynet.cli.watching.plots import Axis, scatter, sparkline
from manynet.cli.watching.study_folder import StudyStatus
from manynet.devices.journal import Status as DeviceStatus
from manynet.records.conditions import LATENCY, Objective, parse_objectives
from manynet.records.formatting import show
from manynet.telemetry import training_status
from manynet.telemetry.search_status import Member, SearchStatus
from manynet.telemetry.training_status import TrainingStatus

PLOT_WIDTH = 34
"""Smallest width of a plot beside the front's table."""
WIDEST_PLOT, WIDEST_COLUMN = 90, 24
NAMES = {"train": "training", "search": "searching", "finalists": "finalists", "done": "done"}


def page(
    studies: Sequence[StudyStatus], width: int, height: int, now: float, note: str = ""
) -> RenderableType:
    """Full status, in at most ``height`` lines.

    Args:
        studies: one study, or several.
        width: of the terminal in characters.
        height: of the terminal in lines.
        now: seconds since 1970.
        note: error of the last read; shown with the previous status.
    """
    if not studies:
        return Group(Text("no search runs on this cluster now; waiting for one"), _footer(now, note))
    if len(studies) > 1:
        return Group(_rows(studies[: max(1, height - 3)], now), Text(), _footer(now, note))
    return Group(*_study(studies[0], width, height - 1, now), _footer(now, note, studies[0]))


def line(studies: Sequence[StudyStatus], now: float) -> str:
    """Status of each study in one line, unchanged until there is news."""
    lines = [f"{study.name}: {_news_line(study)}{_stale_note(study, now)}" for study in studies]
    return "\n".join(lines) or "no search runs on this cluster now"


def _news_line(study: StudyStatus) -> str:
    if study.gone:
        return f"its actor is gone, {study.search.line if study.search else 'without a status'}"
    if study.step == "train" and study.training:
        return f"training: step {study.training['step']} of {study.training['steps']}, {_training(study.training)}"
    if study.step == "search":
        return study.search.line if study.search else "searching: no candidate is evaluated yet"
    if study.step == "finalists":
        return f"finalists: {_training(study.subnets)}" if study.subnets else "finalists: none is trained yet"
    if study.step == "done":
        found = f", {len(study.winners)} winners" if study.winners else ""
        return f"done{found}" + (f", {study.search.line}" if study.search else "")
    return "begun; training has not reported yet"


def _stale_note(study: StudyStatus, now: float) -> str:
    return " (no news: the driver may be gone)" if study.silence(now) else ""


def _training(status: TrainingStatus) -> str:
    return training_status.line(status) or "starting"


def _study(study: StudyStatus, width: int, height: int, now: float) -> list[RenderableType]:
    """One study's page without its footer: head and devices in full, the front in the remaining lines."""
    head: list[RenderableType] = [_title(study), _progress(study, width)]
    if study.search is not None:
        head += _figures(study.search, width)
    shown = _at_work(study.devices, 2 + height // 16)
    foot: list[RenderableType] = [Text(), *map(_device, shown)] if shown else []
    left = height - len(head) - len(foot) - 1
    body = _body(study, width, left) if left >= 4 else []
    return [*head, *([Text(), *body] if body else []), *foot]


def _title(study: StudyStatus) -> Text:
    at = study.steps.index(study.step) if study.step in study.steps else 0
    over = len(study.steps) if study.step == "done" else at
    title = Text(no_wrap=True, overflow="ellipsis")
    title.append(study.name, "bold").append(f"  {study.space}   ", "dim")
    for index, step in enumerate(study.steps):
        title.append(" › " if index else "", "dim")
        now = index == at and index >= over
        title.append(f"[{step}]" if now else step, "bold cyan" if now else "green" if index < over else "dim")
        title.append(" ✓" if index < over else "", "green")
    return title


def _progress(study: StudyStatus, width: int) -> RenderableType:
    """Progress of the current step: a bar with figures, or a line."""
    if study.step == "done":
        return Text("done", "bold green")
    if study.step == "train" and study.training:
        training = study.training
        return _bar("training", training["step"], training["steps"], "", _training(training), width)
    if study.step == "search" and study.search:
        return _bar(
            "search" if study.search.state == "searching" else study.search.state,
            study.search.done,
            study.search.evaluations,
            f"{study.search.done} of {study.search.evaluations}",
            _pace(study.search),
            width,
        )
    if study.step == "finalists" and study.subnets:
        training = study.subnets
        share = training["number"] + training["step"] / max(1, training["steps"])
        return _bar("finalists", share, training["jobs"], "", _training(training), width)
    return Text(_news_line(study), "italic")


def _bar(name: str, done: float, total: float, count: str, about: str, width: int) -> RenderableType:
    row = Table.grid(padding=(0, 1))
    row.add_column(no_wrap=True)
    row.add_column(no_wrap=True)
    row.add_column(no_wrap=True)
    row.add_column(no_wrap=True, overflow="ellipsis")
    share = done / total if total else 0.0
    bar = ProgressBar(max(1.0, total), done, max(8, width // 5), complete_style="cyan")
    row.add_row(Text(name, "bold"), bar, f"{count} {share:.0%}".strip(), about)
    return row


def _pace(search: SearchStatus) -> str:
    if search.state != "searching":
        return ""
    left = "" if search.seconds_left is None else f", {_duration(search.seconds_left)} left"
    return f"{search.per_second:.2f} a second{left}"


def _figures(search: SearchStatus, width: int) -> list[RenderableType]:
    idle = "" if search.idle_share is None else f", idle {search.idle_share:.0%}"
    counts = Text(no_wrap=True, overflow="ellipsis")
    evaluators = "1 evaluator" if search.evaluators == 1 else f"{search.evaluators} evaluators"
    counts.append(f"front of {len(search.front)}   {evaluators}{idle}   ")
    counts.append(f"{search.failed} failed", "bold red" if search.failed else "dim")
    if search.constraints:
        counts.append(f"   {' and '.join(search.constraints)}", "dim")
    curve = Text(f"hypervolume {search.hypervolume:.4f}  ", no_wrap=True, overflow="ellipsis")
    values = [value for _, value in search.hypervolumes]
    first = f"{values[0]:.2f} " if values else ""
    curve.append(first, "dim")
    curve.append(sparkline(values, min(60, width - len(curve) - 8)), "cyan")
    curve.append(f" {values[-1]:.2f}" if values else "", "dim")
    return [counts, curve]


def _body(study: StudyStatus, width: int, height: int) -> list[RenderableType]:
    """Winners if there are any, then the front as a table, with a plot beside it."""
    body: list[RenderableType] = []
    objectives = parse_objectives(study.search.objectives) if study.search else []
    if study.winners:
        table, taken = _table(study.winners, _columns(study.winners, objectives), width, height // 2)
        body, height = [table, Text()], height - taken - 1
    if study.search is None or not study.search.front or height < 4:
        return body
    front = study.search.front
    columns = _columns(front, objectives)
    room = width - PLOT_WIDTH if len(objectives) > 1 else width
    table, _ = _table(front, columns, room, height)
    if len(objectives) < 2 or height < 6 or width < 2 * PLOT_WIDTH:
        return [*body, table]
    plotted = min(WIDEST_PLOT, width - _table_width(front, columns, room) - 3)
    both = Table.grid(padding=(0, 3, 0, 0))
    both.add_row(table, _plot(front, objectives, plotted, min(height, 8 + plotted // 3)))
    return [*body, both]


def _columns(members: Sequence[Member], objectives: Sequence[Objective]) -> list[tuple[str, str]]:
    """Names of metrics and their headings; objectives first, with their direction."""
    headed = {one.column: _heading(one) for one in objectives}
    names = dict.fromkeys([*headed, *(name for member in members for name in member.metrics)])
    return [(name, headed.get(name, name.removeprefix(LATENCY))) for name in names]


def _heading(objective: Objective) -> str:
    """An objective's name and direction; its values carry the unit."""
    return f"{objective.column.removeprefix(LATENCY)} {'↑' if objective.maximise else '↓'}"


def _fitting(
    members: Sequence[Member], columns: Sequence[tuple[str, str]], width: int
) -> list[tuple[str, str, int]]:
    """The columns that fit side by side, with their widths; the first always does."""
    fitting: list[tuple[str, str, int]] = []
    for name, head in columns:
        values = (len(show(name, member.metrics.get(name))) for member in members)
        wide = min(WIDEST_COLUMN, max(len(head), *values))
        if fitting and sum(one[2] + 2 for one in fitting) + wide > width:
            break
        fitting.append((name, head, wide))
    return fitting


def _table_width(members: Sequence[Member], columns: Sequence[tuple[str, str]], width: int) -> int:
    """Width of the table of ``members`` with space for ``width`` characters."""
    return sum(one[2] + 2 for one in _fitting(members, columns, width)) - 2


def _table(
    members: Sequence[Member], columns: Sequence[tuple[str, str]], width: int, height: int
) -> tuple[RenderableType, int]:
    """Table of as many members as fit, best first, and its height in lines."""
    fitting = _fitting(members, columns, width)
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for _, head, wide in fitting:
        table.add_column(Text(head), justify="right", width=wide, no_wrap=True, overflow="ellipsis")
    rows = len(members) if len(members) < height else max(1, height - 2)
    for member in members[:rows]:
        table.add_row(*(show(one, member.metrics.get(one)) for one, _, _ in fitting))
    if rows == len(members):
        return table, rows + 1
    return Group(table, Text(f"and {len(members) - rows} more", "dim")), rows + 2


def _plot(
    members: Sequence[Member], objectives: Sequence[Objective], width: int, height: int
) -> RenderableType:
    up, along = objectives[0], objectives[1]
    points = [
        (member.metrics[along.column], member.metrics[up.column])
        for member in members
        if along.column in member.metrics and up.column in member.metrics
    ]
    if not points:
        return Text()
    x = _axis(along, [point[0] for point in points])
    y = _axis(up, [point[1] for point in points])
    return Text("\n".join(scatter(points, x, y, width, height)), no_wrap=True)


def _axis(objective: Objective, values: Sequence[float]) -> Axis:
    shown = (show(objective.column, value) for value in (min(values), max(values)))
    return Axis(_heading(objective), *shown)


def _at_work(devices: Sequence[DeviceStatus], most: int) -> list[DeviceStatus]:
    """Devices that have not ended; if all have, the last ones."""
    alive = [one for one in devices if one.state != "ended"]
    return (alive or list(devices))[-most:]


def _device(device: DeviceStatus) -> Text:
    fine = device.state in ("in service", "starting", "ended")
    text = Text(no_wrap=True, overflow="ellipsis")
    text.append(device.device, "bold").append("  ")
    text.append(device.state, "" if fine else "bold red")
    text.append(f"  {device.measured} measured, drift {device.drift:+.1%}")
    text.append(f", {device.refused} refused" if device.refused else "")
    text.append(f"  {device.why}" if device.why else "", "" if fine and not device.why else "bold red")
    text.append(f"  {device.actor}", "dim")
    return text


def _rows(studies: Sequence[StudyStatus], now: float) -> Table:
    """Several studies, a line each."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold", expand=True)
    widest = min(WIDEST_COLUMN, max(len(study.name) for study in studies))
    table.add_column("study", no_wrap=True, overflow="ellipsis", width=max(len("study"), widest))
    table.add_column("step", no_wrap=True)
    table.add_column("hypervolume", justify="right", no_wrap=True)
    table.add_column("front", justify="right", no_wrap=True)
    table.add_column("news", no_wrap=True, overflow="ellipsis", ratio=1)
    for study in studies:
        search = study.search
        table.add_row(
            Text(study.name, "bold"),
            Text(
                "gone" if study.gone else NAMES.get(study.step, study.step), "green" if study.over else "cyan"
            ),
            f"{search.hypervolume:.4f}" if search else "–",
            str(len(search.front)) if search else "–",
            _news(study, now),
        )
    return table


def _news(study: StudyStatus, now: float) -> Text:
    """The status in short; its age comes first if stale, because the end may be cut off."""
    quiet, short = study.silence(now), _short(study)
    if not quiet:
        return Text(short)
    return Text("; ".join(filter(None, [f"! no news for {_duration(quiet)}", short])), "bold red")


def _short(study: StudyStatus) -> str:
    if study.step == "search" and study.search:
        failed = f", {study.search.failed} failed" if study.search.failed else ""
        return f"{study.search.done} of {study.search.evaluations}{failed}, {_pace(study.search)}".rstrip(
            ", "
        )
    if study.step == "done":
        return f"{len(study.winners)} winners" if study.winners else ""
    return _news_line(study).partition(": ")[2]


def _footer(now: float, note: str, study: StudyStatus | None = None) -> Text:
    footer = Text(no_wrap=True, overflow="ellipsis")
    quiet = study.silence(now) if study else 0.0
    if note:
        footer.append(f"! {note}   ", "bold red")
    if study and study.gone:
        footer.append("! its actor is gone: the search ended, or its driver died   ", "bold red")
    elif quiet:
        footer.append(f"! no news for {_duration(quiet)}: the driver may be gone   ", "bold red")
    elif study:
        footer.append(f"last news {_duration(max(0.0, now - study.updated))} ago   ", "dim")
    return footer.append("Ctrl-C leaves", "dim")


def _duration(seconds: float) -> str:
    """Whole seconds below two minutes, then minutes, then hours."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
