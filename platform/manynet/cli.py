"""The command line: run an experiment file, resume a study, and read what it found."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape
from rich.table import Table

from manynet.errors import ManynetError

if TYPE_CHECKING:
    from manynet.study import Study
    from manynet.sweep import Sweep

app = typer.Typer(
    name="manynet",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    help="""Train one weight-sharing supernet, search it, and hand over the winners with their weights.

A study is a folder. `manynet run experiment.yaml` fills it: it trains the supernet, searches it for the best
subnets under accuracy or AUC, cost and measured latency, fine-tunes and exports winners, and writes `report.html`.
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

    The file's keys are `study` (the folder), `space` (`module:name`), `data` (`digits`, `flights`,
    `flights_by_time`, `idx:PATH`, `images:PATH` or `parquet:ADDRESS`), and `train`, `search` and `finalists`, which hold the arguments of those
    steps by name. `sweep` maps dotted keys to lists of values: one study is run for each combination, in a folder of
    its own, and a report compares their finalists.

    Example: `manynet run examples/vit-digits.yaml --set study=runs/mine --set train.steps=500`
    """
    from manynet.experiment import read_experiment
    from manynet.study import Study
    from manynet.sweep import Sweep

    experiment = read_experiment(file, changes or [])
    if experiment.sweep:
        _run_sweep(Sweep.begin(experiment))
    else:
        _run_study(Study.begin(experiment))


@app.command()
def resume(folder: Folder) -> None:
    """Go on with a study that was stopped, and write its report.

    Training goes on at its last checkpoint; no finished evaluation is done again.
    """
    from manynet.study import Study, recorded
    from manynet.sweep import Sweep

    if recorded(folder).sweep:
        _run_sweep(Sweep.open(folder))
    else:
        _run_study(Study.open(folder))


@app.command()
def best(
    folder: Folder,
    column: Annotated[
        str | None,
        typer.Option(
            "--by",
            help="Column: largest accuracy or AUC, smallest of anything else. [default: the task's metric]",
        ),
    ] = None,
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
    from manynet.study import Study, recorded
    from manynet.sweep import Sweep

    if recorded(folder).sweep:
        sweep = Sweep.open(folder)
        sweep.report()
        _show_sweep(sweep)
    else:
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
        # What to install is in brackets, which Rich would take for a style.
        table.add_row(*map(escape, listing))
    Console().print(table)


@app.command()
def convert(
    source: Annotated[
        str,
        typer.Argument(
            help="`criteo:PATH`, `avazu:PATH`, `kdd:FOLDER`, or `schema:FILE` that declares other logs.",
            show_default=False,
        ),
    ],
    folder: Annotated[
        str, typer.Argument(help="New folder to write, or its filesystem address.", show_default=False)
    ],
    table_rows: Annotated[int | None, typer.Option(help="Rows an embedding table has at most.")] = None,
    tokens: Annotated[
        bool,
        typer.Option("--tokens", help="Of `kdd:`, also join the tokens of queries, titles and the like."),
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the splits.")] = 0,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave bad rows out and count them, rather than stop.")
    ] = False,
) -> None:
    """Convert raw click-through logs to Parquet, for `data: parquet:FOLDER`.

    Logs are plain or gzipped, and streamed: their size does not matter to memory. Rows are split 8:1:1 within
    each class.

    Example: `manynet convert criteo:train.txt.gz clicks/criteo --table-rows 1000000`
    """
    from manynet.data.clicks.convert import convert as convert_logs

    schema = convert_logs(source, folder, table_rows=table_rows, tokens=tokens, seed=seed, skip_bad=skip_bad)
    Console().print(schema.summary, markup=False, highlight=False, soft_wrap=True)


@app.command()
def rank(
    file: Annotated[Path, typer.Argument(help="File of a comparison (YAML).", show_default=False)],
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Replace one of the file's values; may be repeated."),
    ] = None,
) -> None:
    """Compare how well ways to train a supernet rank subnets.

    Trains anchors alone, and one supernet for each strategy and space; scores the anchors with the supernet's
    weights, with and without fine-tuning their last layer; prints how far both agree. The file's keys are `study`
    (the folder), `data`, `spaces`, `strategies`, `train`, `anchors` and `score`. Started again, it goes on.

    Example: `manynet rank examples/nasrec-ranking.yaml`
    """
    from manynet.ranking_settings import read_rank_settings
    from manynet.ranking_study import RankingStudy, order, verdict
    from manynet.training import TrainingStopped

    settings = read_rank_settings(file, changes or [])
    try:
        rows = RankingStudy(settings).run()
    except (KeyboardInterrupt, TrainingStopped) as stop:
        _stopped(stop, f"`manynet rank {file}`")
    table = Table(title=f"Agreement with {rows[0].tau.count} anchors trained alone [95% interval]")
    for name in ("space", "strategy", "fine-tuned", "Kendall tau", "Pearson"):
        table.add_column(name, overflow="fold")
    for row in rows:
        tau = f"{row.tau.tau:.2f} [{row.tau.low:.2f}, {row.tau.high:.2f}]"
        table.add_row(row.space, row.strategy, "yes" if row.finetuned else "no", tau, str(row.pearson))
    Console().print(table)
    Console().print(verdict(rows), soft_wrap=True)
    Console().print(order(rows), soft_wrap=True)
    Console().print(f"all scores: {settings.study}/ranking.json", soft_wrap=True)


def _run_study(study: Study) -> None:
    with _resumable(study.folder):
        study.run()
    _show(study)


def _run_sweep(sweep: Sweep) -> None:
    with _resumable(sweep.folder):
        sweep.run()
    _show_sweep(sweep)


def _show_sweep(sweep: Sweep) -> None:
    for name, study in sweep.studies():
        Console().print(f"[bold]{name}[/]", soft_wrap=True)
        _show(study)
    Console().print(f"all studies: {sweep.folder}/report.html", soft_wrap=True)


@contextmanager
def _resumable(folder: str) -> Iterator[None]:
    """Leave an interrupted study with a word on how to go on."""
    from manynet.training import TrainingStopped

    try:
        yield
    except (KeyboardInterrupt, TrainingStopped) as stop:
        _stopped(stop, f"`manynet resume {folder}`")


def _stopped(stop: BaseException, command: str) -> NoReturn:
    console = Console(stderr=True)
    console.print(str(stop) or "stopped", markup=False, soft_wrap=True)
    console.print(f"{command} goes on", markup=False, soft_wrap=True)
    raise typer.Exit(130) from None


def _show(study: Study) -> None:
    console, metric = Console(), study.space.task.metric
    finalists = study.winners()
    if finalists:
        wanted = (f"test_{metric}", metric, "parameters", "macs")
        columns = [c for c in wanted if c in finalists[0].metrics]
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
        console.print(f"{baseline[0]}: {baseline[1]:.4f} test {metric} on the same split")
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
