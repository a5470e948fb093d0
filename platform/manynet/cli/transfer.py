"""The command that asks whether what was found for one device holds on others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from manynet.cli.stopping import stopped

if TYPE_CHECKING:
    from manynet.studies.transfer.comparison import Transfer

WIDEST = 10


def transfer(
    folder: Annotated[
        str,
        typer.Argument(help="Folder of a study, or of imported published latencies.", show_default=False),
    ],
    source: Annotated[
        str,
        typer.Option("--from", metavar="DEVICE", help="The front found on this one.", show_default=False),
    ],
    targets: Annotated[
        list[str] | None,
        typer.Option(
            "--to",
            metavar="DEVICE",
            help="Device to transfer it to; may be repeated. [default: all that were measured]",
            show_default=False,
        ),
    ] = None,
    subnets: Annotated[
        int, typer.Option(help="Subnets to measure at most, the front among them; of a study only.")
    ] = 200,
) -> None:
    """Tell whether the front found for one device holds on others.

    A device means a device with its deployment tool and settings: `host/torch`, `host/onnxruntime?threads=2`,
    `host/openvino?batch=8`. Measures what the search did not, prints how far the order of latencies agrees and what
    is lost at equal latency against each device's own front, and writes `transfer.html` and `transfer.json`. Started
    again, it measures nothing twice.

    Example: `manynet transfer runs/mine --from host/torch --to host/onnxruntime --to host/torch.compile`
    """
    from manynet.studies.study import Study
    from manynet.studies.transfer.runs import is_published, transfer_published

    try:
        if is_published(folder):
            found = transfer_published(folder, source, targets or ())
        else:
            found = Study.open(folder).transfer(source, targets or (), subnets)
    except KeyboardInterrupt as stop:
        stopped(stop, f"the same `manynet transfer {folder}`")
    _show(found)
    Console().print(f"page: {folder}/transfer.html", soft_wrap=True, markup=False)


def _show(found: Transfer) -> None:
    from manynet.studies.transfer.page import cells, head
    from manynet.studies.transfer.verdict import reading

    console = Console()
    table = Table(title=f"From {escape(found.source)} to")
    for name in head(found.metric):
        table.add_column(name, overflow="fold")
    for target in found.targets:
        table.add_row(*map(escape, cells(target, found.metric)))
    console.print(table)
    if len(found.devices) <= WIDEST:
        console.print(_matrix(found))
    for line in found.notes:
        console.print(line, style="dim", markup=False, soft_wrap=True)
    if found.metric is None:
        console.print("no score of the subnets is known: rank correlations only", style="dim")
    console.print(reading(found), markup=False, highlight=False, soft_wrap=True)


def _matrix(found: Transfer) -> Table:
    """Tau among all devices, columns by number: names side by side would not fit."""
    table = Table(title="Kendall tau among all", box=None)
    table.add_column("")
    for number, _ in enumerate(found.devices, start=1):
        table.add_column(str(number), justify="right")
    for number, (device, row) in enumerate(zip(found.devices, found.taus, strict=True), start=1):
        table.add_row(
            f"{number} {escape(device)}", *("–" if value is None else f"{value:.2f}" for value in row)
        )
    return table
