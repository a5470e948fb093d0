"""Command that imports published latencies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from manynet.latency.published import Imported


def import_set(
    source: Annotated[
        str,
        typer.Argument(help="`fbnet:PATH` (npz), `hat:FOLDER` or `timm:FOLDER` (csv).", show_default=False),
    ],
    folder: Annotated[
        str, typer.Argument(help="New folder to write, or its filesystem address.", show_default=False)
    ],
) -> None:
    """Import published latencies of real devices, for `manynet transfer`.

    `fbnet:` is HELP's file of FBNet's nets, `hat:` HAT's transformers, `timm:` the results of timm. Writes a
    ledger, and a table of latency for each device whose latencies are exactly sums over layers.

    Example: `manynet import fbnet:help_fbnet.npz runs/fbnet`
    """
    from manynet.latency.published import import_published

    imported = import_published(source, folder)
    console = Console()
    console.print(_table(imported))
    metric = (
        f"{imported.with_metric:,} of them with {imported.metric}" if imported.metric else "latencies alone"
    )
    console.print(f"{imported.nets:,} architectures, {metric}: {folder}", markup=False, soft_wrap=True)
    for device in imported.devices:
        if device.left_out:
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in device.left_out.items())
            console.print(f"left out of {device.device}: {reasons}", markup=False, soft_wrap=True)


def _table(imported: Imported) -> Table:
    sums = any(device.additivity for device in imported.devices)
    table = Table(title=f"{imported.name}: latency of one example, ms")
    table.add_column("device", overflow="fold")
    for name in ("nets", "fastest", "slowest"):
        table.add_column(name, justify="right")
    if sums:
        table.add_column("a sum over layers?")
    for device in imported.devices:
        verdict = [device.additivity.verdict] if device.additivity else []
        table.add_row(
            escape(device.device),
            f"{device.nets:,}",
            f"{device.fastest:.3g}",
            f"{device.slowest:.3g}",
            *verdict,
        )
    return table
