"""How far a run is, as a page that fits a terminal, or as a line where there is none."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from manynet.cli.watching.plots import Axis, scatter, sparkline
from manynet.cli.watching.study_folder import Seen
from manynet.devices.journal import Status as DeviceStatus
from manynet.records.conditions import LATENCY, Objective, parse_objectives
from manynet.records.formatting import show
from manynet.telemetry import training_status
from manynet.telemetry.search_status import Member, SearchStatus
from manynet.telemetry.training_status import TrainingStatus

PLOT_WIDTH = 34
"""The least that a plot beside the front's table takes."""
WIDEST_PLOT, WIDEST_COLUMN = 90, 24
NAMES = {"train": "training", "search": "searching", "finalists": "finalists", "done": "done"}


def page(seen: Sequence[Seen], width: int, height: int, now: float, note: str = "") -> RenderableType:
    """All that is known, in ``height`` lines at most.

    Args:
        seen: one study, or several.
        width: of the terminal in characters.
        height: of the terminal in lines.
        now: seconds since 1970.
        note: what went wrong in reading; shown with what was read before.
    """
    if not seen:
        return Group(Text("no search runs on this cluster now; waiting for one"), _footer(now, note))
    if len(seen) > 1:
        return Group(_rows(seen[: max(1, height - 3)], now), Text(), _footer(now, note))
    return Group(*_study(seen[0], width, height - 1, now), _footer(now, note, seen[0]))


def line(seen: Sequence[Seen], now: float) -> str:
    """All that is known in a line for each study; the same as long as nothing new is told."""
    lines = [f"{one.name}: {_told(one)}{_doubt(one, now)}" for one in seen]
    return "\n".join(lines) or "no search runs on this cluster now"


def _told(seen: Seen) -> str:
    if seen.gone:
        return f"its actor is gone, {seen.search.line if seen.search else 'nothing was told'}"
    if seen.step == "train" and seen.training:
        return (
            f"training: step {seen.training['step']} of {seen.training['steps']}, {_training(seen.training)}"
        )
    if seen.step == "search":
        return seen.search.line if seen.search else "searching: no candidate is evaluated yet"
    if seen.step == "finalists":
        return f"finalists: {_training(seen.subnets)}" if seen.subnets else "finalists: none is trained yet"
    if seen.step == "done":
        found = f", {len(seen.winners)} winners" if seen.winners else ""
        return f"done{found}" + (f", {seen.search.line}" if seen.search else "")
    return "begun; nothing is told of its training yet"


def _doubt(seen: Seen, now: float) -> str:
    return " (no news: the driver may be gone)" if seen.silence(now) else ""


def _training(told: TrainingStatus) -> str:
    return training_status.line(told) or "starting"


def _study(seen: Seen, width: int, height: int, now: float) -> list[RenderableType]:
    """The page of one study but for its footer: head and devices as they are, the front in what is left."""
    head: list[RenderableType] = [_title(seen), _progress(seen, width)]
    if seen.search is not None:
        head += _figures(seen.search, width)
    shown = _at_work(seen.devices, 2 + height // 16)
    foot: list[RenderableType] = [Text(), *map(_device, shown)] if shown else []
    left = height - len(head) - len(foot) - 1
    body = _body(seen, width, left) if left >= 4 else []
    return [*head, *([Text(), *body] if body else []), *foot]


def _title(seen: Seen) -> Text:
    at = seen.steps.index(seen.step) if seen.step in seen.steps else 0
    over = len(seen.steps) if seen.step == "done" else at
    title = Text(no_wrap=True, overflow="ellipsis")
    title.append(seen.name, "bold").append(f"  {seen.space}   ", "dim")
    for index, step in enumerate(seen.steps):
        title.append(" › " if index else "", "dim")
        now = index == at and index >= over
        title.append(f"[{step}]" if now else step, "bold cyan" if now else "green" if index < over else "dim")
        title.append(" ✓" if index < over else "", "green")
    return title


def _progress(seen: Seen, width: int) -> RenderableType:
    """What the step is at: a bar and its figures, or a line."""
    if seen.step == "done":
        return Text("done", "bold green")
    if seen.step == "train" and seen.training:
        told = seen.training
        return _bar("training", told["step"], told["steps"], "", _training(told), width)
    if seen.step == "search" and seen.search:
        return _bar(
            "search" if seen.search.state == "searching" else seen.search.state,
            seen.search.done,
            seen.search.evaluations,
            f"{seen.search.done} of {seen.search.evaluations}",
            _pace(seen.search),
            width,
        )
    if seen.step == "finalists" and seen.subnets:
        told = seen.subnets
        share = told["number"] + told["step"] / max(1, told["steps"])
        return _bar("finalists", share, told["jobs"], "", _training(told), width)
    return Text(_told(seen), "italic")


def _bar(name: str, done: float, wanted: float, count: str, about: str, width: int) -> RenderableType:
    row = Table.grid(padding=(0, 1))
    row.add_column(no_wrap=True)
    row.add_column(no_wrap=True)
    row.add_column(no_wrap=True)
    row.add_column(no_wrap=True, overflow="ellipsis")
    share = done / wanted if wanted else 0.0
    bar = ProgressBar(max(1.0, wanted), done, max(8, width // 5), complete_style="cyan")
    row.add_row(Text(name, "bold"), bar, f"{count} {share:.0%}".strip(), about)
    return row


def _pace(told: SearchStatus) -> str:
    if told.state != "searching":
        return ""
    left = "" if told.seconds_left is None else f", {_duration(told.seconds_left)} left"
    return f"{told.per_second:.2f} a second{left}"


def _figures(told: SearchStatus, width: int) -> list[RenderableType]:
    idle = "" if told.idle_share is None else f", idle {told.idle_share:.0%}"
    counts = Text(no_wrap=True, overflow="ellipsis")
    counts.append(f"front of {len(told.front)}   {told.evaluators} evaluators{idle}   ")
    counts.append(f"{told.failed} failed", "bold red" if told.failed else "dim")
    if told.constraints:
        counts.append(f"   {' and '.join(told.constraints)}", "dim")
    curve = Text(f"hypervolume {told.hypervolume:.4f}  ", no_wrap=True, overflow="ellipsis")
    values = [value for _, value in told.hypervolumes]
    first = f"{values[0]:.2f} " if values else ""
    curve.append(first, "dim")
    curve.append(sparkline(values, min(60, width - len(curve) - 8)), "cyan")
    curve.append(f" {values[-1]:.2f}" if values else "", "dim")
    return [counts, curve]


def _body(seen: Seen, width: int, height: int) -> list[RenderableType]:
    """Winners where there are some, then the front: as a table, and beside it as a plot."""
    body: list[RenderableType] = []
    objectives = parse_objectives(seen.search.objectives) if seen.search else []
    if seen.winners:
        table, taken = _table(seen.winners, _columns(seen.winners, objectives), width, height // 2)
        body, height = [table, Text()], height - taken - 1
    if seen.search is None or not seen.search.front or height < 4:
        return body
    front = seen.search.front
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
    """Names of metrics and how they are headed: objectives first, with the way that is better."""
    headed = {one.column: _heading(one) for one in objectives}
    names = dict.fromkeys([*headed, *(name for member in members for name in member.metrics)])
    return [(name, headed.get(name, name.removeprefix(LATENCY))) for name in names]


def _heading(objective: Objective) -> str:
    """An objective's name and the way that is better; its values carry the unit."""
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
    """Of the table of ``members`` where there is room for ``width`` characters."""
    return sum(one[2] + 2 for one in _fitting(members, columns, width)) - 2


def _table(
    members: Sequence[Member], columns: Sequence[tuple[str, str]], width: int, height: int
) -> tuple[RenderableType, int]:
    """As many members as fit, best first, and the lines that takes."""
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
    """Those that are not at their end, or were in the last run where all are."""
    alive = [one for one in devices if one.state != "ended"]
    return (alive or list(devices))[-most:]


def _device(device: DeviceStatus) -> Text:
    fine = device.state in ("in service", "starting", "ended")
    told = Text(no_wrap=True, overflow="ellipsis")
    told.append(device.device, "bold").append("  ")
    told.append(device.state, "" if fine else "bold red")
    told.append(f"  {device.measured} measured, drift {device.drift:+.1%}")
    told.append(f", {device.refused} refused" if device.refused else "")
    told.append(f"  {device.why}" if device.why else "", "" if fine and not device.why else "bold red")
    told.append(f"  {device.actor}", "dim")
    return told


def _rows(seen: Sequence[Seen], now: float) -> Table:
    """Several studies, a line each."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold", expand=True)
    widest = min(WIDEST_COLUMN, max(len(one.name) for one in seen))
    table.add_column("study", no_wrap=True, overflow="ellipsis", width=max(len("study"), widest))
    table.add_column("step", no_wrap=True)
    table.add_column("hypervolume", justify="right", no_wrap=True)
    table.add_column("front", justify="right", no_wrap=True)
    table.add_column("told", no_wrap=True, overflow="ellipsis", ratio=1)
    for one in seen:
        search = one.search
        table.add_row(
            Text(one.name, "bold"),
            Text("gone" if one.gone else NAMES.get(one.step, one.step), "green" if one.over else "cyan"),
            f"{search.hypervolume:.4f}" if search else "–",
            str(len(search.front)) if search else "–",
            _news(one, now),
        )
    return table


def _news(seen: Seen, now: float) -> Text:
    """What is told, in short; how long ago comes first where it should not be long, because the end is cut."""
    quiet, short = seen.silence(now), _short(seen)
    if not quiet:
        return Text(short)
    return Text("; ".join(filter(None, [f"! no news for {_duration(quiet)}", short])), "bold red")


def _short(seen: Seen) -> str:
    if seen.step == "search" and seen.search:
        failed = f", {seen.search.failed} failed" if seen.search.failed else ""
        return f"{seen.search.done} of {seen.search.evaluations}{failed}, {_pace(seen.search)}".rstrip(", ")
    if seen.step == "done":
        return f"{len(seen.winners)} winners" if seen.winners else ""
    return _told(seen).partition(": ")[2]


def _footer(now: float, note: str, seen: Seen | None = None) -> Text:
    footer = Text(no_wrap=True, overflow="ellipsis")
    quiet = seen.silence(now) if seen else 0.0
    if note:
        footer.append(f"! {note}   ", "bold red")
    if seen and seen.gone:
        footer.append("! its actor is gone: the search ended, or its driver died   ", "bold red")
    elif quiet:
        footer.append(f"! no news for {_duration(quiet)}: the driver may be gone   ", "bold red")
    elif seen:
        footer.append(f"last news {_duration(max(0.0, now - seen.updated))} ago   ", "dim")
    return footer.append("Ctrl-C leaves", "dim")


def _duration(seconds: float) -> str:
    """Whole seconds below two minutes, then minutes, then hours."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
