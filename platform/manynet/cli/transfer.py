"""Command that tests whether one device's front transfers to other devices."""

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
        typer.Option("--from", metavar="DEVICE", help="Device of the front.", show_default=False),
    ],
    targets: Annotated[
        list[str] | None,
        typer.Option(
            "--to",
            metavar="DEVICE",
            help="Device to transfer it to; may be repeated. [default: all measured ones]",
            show_default=False,
        ),
    ] = None,
    subnets: Annotated[
        int, typer.Option(help="Most subnets to measure, including the front; for studies only.")
    ] = 200,
) -> None:
    """Test whether one device's front transfers to other devices.

    A device includes its deployment tool and settings: `host/torch`, `host/onnxruntime?threads=2`,
    `host/openvino?batch=8`. Measures subnets that the search did not, prints the rank correlation of latencies and
    the loss at equal latency against each device's own front, and writes `transfer.html` and `transfer.json`. Started
    again, it measures nothing twice.

    Example: `manynet transfer runs/mine --from host/torch --to host/onnxruntime --to host/torch.compile`
    """
    from manynet.studies.study import Study
    from manynet.studies.transfer.runs import is_published, transfer_published

    try:
        if is_published(folder):
            result = transfer_published(folder, source, targets or ())
        else:
            result = Study.open(folder).transfer(source, targets or (), subnets)
    except KeyboardInterrupt as stop:
        stopped(stop, f"the same `manynet transfer {folder}`")
    _show(result)
    Console().print(f"page: {folder}/transfer.html", soft_wrap=True, markup=False)


def _show(result: Transfer) -> None:
    from manynet.studies.transfer.page import cells, head
    from manynet.studies.transfer.verdict import reading

    console = Console()
    table = Table(title=f"From {escape(result.source)} to")
    for name in head(result.metric):
        table.add_column(name, overflow="fold")
    for target in result.targets:
        table.add_row(*map(escape, cells(target, result.metric)))
    console.print(table)
    if len(result.devices) <= WIDEST:
        console.print(_matrix(result))
    for line in result.notes:
        console.print(line, style="dim", markup=False, soft_wrap=True)
    if result.metric is None:
        console.print("no score of the subnets is known: rank correlations only", style="dim")
    console.print(reading(result), markup=False, highlight=False, soft_wrap=True)


def _matrix(result: Transfer) -> Table:
    """Kendall's tau between all devices; columns are numbered, since names would not fit side by side."""
    table = Table(title="Kendall tau among all", box=None)
    table.add_column("")
    for number, _ in enumerate(result.devices, start=1):
        table.add_column(str(number), justify="right")
    for number, (device, row) in enumerate(zip(result.devices, result.taus, strict=True), start=1):
        table.add_row(
            f"{number} {escape(device)}", *("–" if value is None else f"{value:.2f}" for value in row)
        )
    return table
