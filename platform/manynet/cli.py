"""The command line: run an experiment file, resume a study, and read what it found."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table

from manynet.errors import ManynetError

app = typer.Typer(
    name="manynet",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    help="""Train one weight-sharing supernet, search it, and hand over the winners with their weights.

A study is a folder. `manynet run experiment.yaml` fills it: it trains the supernet, searches it for the best
subnets under accuracy, cost and measured latency, fine-tunes and exports winners, and writes `report.html`.
Whatever stops it, `manynet resume FOLDER` goes on.
""",
)
Folder = Annotated[
    str, typer.Argument(help="Folder of the study, or its filesystem address.", show_default=False)
]


@app.command()
def run(
    file: Annotated[Path, typer.Argument(help="Experiment file (YAML).", show_default=False)],
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Replace one of the file's values; may be repeated."),
    ] = None,
) -> None:
    """Run an experiment file to its report.

    The file's keys are `study` (the folder), `space` (`module:name`), `data` (`digits`, `idx:PATH`,
    `images:PATH` or `parquet:ADDRESS`), and `train`, `search` and `finalists`, which hold the arguments of those
    steps by name.

    Example: `manynet run examples/vit-digits.yaml --set study=runs/mine --set train.steps=500`
    """
    from manynet.experiment import read_experiment
    from manynet.study import Study

    study = Study.begin(read_experiment(file, changes or []))
    with _resumable(study.folder):
        study.run()
    _show(study)


@app.command()
def resume(folder: Folder) -> None:
    """Go on with a study that was stopped, and write its report.

    Training goes on at its last checkpoint; no finished evaluation is done again.
    """
    from manynet.study import Study

    study = Study.open(folder)
    with _resumable(folder):
        study.run()
    _show(study)


@app.command()
def best(
    folder: Folder,
    column: Annotated[
        str, typer.Option("--by", help="Column: largest accuracy, smallest of anything else.")
    ] = "accuracy",
    where: Annotated[
        str, typer.Option(help='Conditions, e.g. "latency@host/torch <= 5 and parameters <= 2e5".')
    ] = "",
) -> None:
    """Print the best subnet of a study, among evaluated ones and finalists."""
    from manynet.study import Study

    record = Study.open(folder).best(column, where)
    table = Table("column", "value", title=f"{record.kind} {record.key}")
    for name, value in record.metrics.items():
        table.add_row(name, _figure(value))
    for name, value in record.architecture.items():
        table.add_row(name, str(value), style="dim")
    if "folder" in record.details:
        table.add_row("folder", f"{folder}/{record.details['folder']}")
    Console().print(table)


@app.command()
def report(folder: Folder) -> None:
    """Write `report.html` again from what the study holds now."""
    from manynet.study import Study

    study = Study.open(folder)
    study.report()
    _show(study)


@app.command()
def devices() -> None:
    """List the devices whose latency can be measured here and in the connected cluster.

    Names go into objectives and constraints: `latency@host/torch:min`. Batch 1, one thread and float32 unless
    spelled otherwise: `host/torch?batch=8&threads=2&precision=bf16`.
    """
    from manynet.cluster import connect
    from manynet.devices import list_devices

    if os.environ.get("RAY_ADDRESS"):
        connect()
    table = Table("device", "status", "found", "what it is")
    for listing in list_devices():
        table.add_row(*listing)
    Console().print(table)


@contextmanager
def _resumable(folder: str) -> Iterator[None]:
    """Leave an interrupted study with a word on how to go on."""
    from manynet.training import TrainingStopped

    try:
        yield
    except (KeyboardInterrupt, TrainingStopped) as stop:
        console = Console(stderr=True)
        console.print(str(stop) or "stopped", markup=False, soft_wrap=True)
        console.print(f"`manynet resume {folder}` goes on", markup=False, soft_wrap=True)
        raise typer.Exit(130) from None


def _show(study: "Study") -> None:  # type: ignore[name-defined]  # noqa: F821, UP037
    console = Console()
    finalists = study.winners()
    if finalists:
        columns = [
            c for c in ("test_accuracy", "accuracy", "parameters", "macs") if c in finalists[0].metrics
        ]
        columns += [c for c in finalists[0].metrics if c.startswith("latency@")]
        table = Table(title="Finalists")
        for name in ("in finalists/", *columns):
            table.add_column(name.replace("latency@", "ms on\n"), overflow="fold")
        for record in finalists:
            folder = record.details["folder"].removeprefix("finalists/")
            table.add_row(folder, *(_figure(record.metrics[c]) for c in columns))
        console.print(table)
    baseline = study.baseline() if finalists else None
    if baseline is not None:
        console.print(f"{baseline[0]}: {baseline[1]:.4f} test accuracy on the same split")
    ranking = study.ranking()
    if ranking is not None:
        console.print(ranking.verdict, style=None if ranking.carries_search else "yellow", soft_wrap=True)
    console.print(f"report: {study.folder}/report.html", soft_wrap=True)


def _figure(value: float) -> str:
    return f"{value:,.4f}" if abs(value) < 1000 else f"{value:,.0f}"


def main() -> None:
    """Entry point: what the user can put right is one line, not a traceback."""
    # A space in the working directory is as good as ours.
    sys.path.insert(0, os.getcwd())
    logging.basicConfig(
        level=logging.WARNING,
        format="%(message)s",
        handlers=[RichHandler(console=Console(stderr=True), show_path=False)],
    )
    logging.getLogger("manynet").setLevel(logging.INFO)
    try:
        app(standalone_mode=True)
    except ManynetError as error:
        Console(stderr=True).print(f"Error: {error}", style="red", markup=False, soft_wrap=True)
        sys.exit(1)
