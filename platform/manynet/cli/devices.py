"""Commands on devices: what latency can be measured on, and how the devices of a study are."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from manynet.devices.journal import Status

STYLES = {"in service": "green", "set aside": "yellow", "lost": "red"}


def devices(
    folder: Annotated[
        str | None,
        typer.Argument(
            help="Folder of a study, whose own devices to show, during its search and after.",
            show_default=False,
        ),
    ] = None,
    tools: Annotated[
        list[str] | None,
        typer.Option(
            "--tool", metavar="MODULE:NAME", help="List a tool of your own for this host; may be repeated."
        ),
    ] = None,
) -> None:
    """List the devices whose latency can be measured, or what those of a study measured and how they are.

    Without a study: the devices of this host and of the cluster that `RAY_ADDRESS` names, and those at work in it.
    With one: how many networks each measured, how many of them unsteadily, how far its reference subnet has drifted,
    and which are set aside or lost, and why.

    Names go into objectives and constraints: `latency@host/torch:min`. Batch 1, one thread and float32 unless
    spelled otherwise: `host/torch?batch=8&threads=2&precision=bf16`. With `source=predicted` most of a search's
    latencies are predicted, with `source=table` they are sums of a table's.
    """
    if folder is not None:
        from manynet.studies.devices import told

        Console().print(_at_work(told(folder)))
        return
    from manynet.devices import list_devices, running
    from manynet.runtime.ray_session import connect

    # Asked before devices are started to be described: those are at work too.
    connected = bool(os.environ.get("RAY_ADDRESS"))
    if connected:
        connect()
    busy = running() if connected else []
    table = Table("device", "status", "found", "what it is")
    for listing in list_devices(tools or []):
        # What to install is in brackets, which Rich would take for a style.
        table.add_row(*map(escape, listing))
    Console().print(table)
    if busy:
        Console().print(_at_work(busy))


def _at_work(statuses: Sequence[Status]) -> Table:
    table = Table(title="Devices at work")
    for name in ("device", "actor", "state", "what it did", "drift", "why"):
        table.add_column(name, overflow="fold")
    for one in statuses:
        table.add_row(
            escape(one.device),
            escape(one.actor or "–"),
            f"[{STYLES.get(one.state, 'default')}]{one.state}[/]",
            _deeds(one),
            f"{one.drift:+.0%}",
            escape(one.why),
        )
    return table


def _deeds(one: Status) -> str:
    counts = {"unsteady": one.unsteady, "refused": one.refused, "times dead": one.deaths}
    return ", ".join(
        [f"{one.measured} measured", *(f"{count} {name}" for name, count in counts.items() if count)]
    )
