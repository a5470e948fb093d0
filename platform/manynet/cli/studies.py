"""Commands on studies: run an experiment file, resume a study, and read what it found."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from manynet.cli.stopping import stopped
from manynet.records.conditions import LATENCY
from manynet.storage import join

if TYPE_CHECKING:
    from manynet.records.ledger import Record
    from manynet.studies.findings import Findings
    from manynet.studies.study import Study
    from manynet.studies.sweep import Sweep

Folder = Annotated[
    str, typer.Argument(help="Folder of the study, or its filesystem address.", show_default=False)
]


Changes = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Replace one of the values; may be repeated."),
]


def run(
    file: Annotated[Path, typer.Argument(help="Experiment file (YAML).", show_default=False)],
    changes: Changes = None,
) -> None:
    """Run an experiment file to its report.

    The file's keys are `study` (the folder), `space` (`module:name`), `data` (`digits`, `flights`,
    `flights_by_time`, `idx:PATH`, `images:PATH`, `parquet:ADDRESS` or `module:name`), and `train`, `search` and `finalists`, which hold the arguments of those
    steps by name. `sweep` maps dotted keys to lists of values: one study is run for each combination, in a folder of
    its own, and a report compares their finalists.

    Example: `manynet run examples/vit-digits.yaml --set study=runs/mine --set train.steps=500`
    """
    from manynet.config.experiment import read_experiment
    from manynet.studies.study import Study
    from manynet.studies.sweep import Sweep

    experiment = read_experiment(file, changes or [])
    if experiment.sweep:
        _run_sweep(Sweep.begin(experiment))
    else:
        _run_study(Study.begin(experiment))


def resume(folder: Folder, changes: Changes = None) -> None:
    """Go on with a study that was stopped, or extend one that is done, and write its report.

    Training goes on at its last checkpoint; no finished evaluation is done again. Settings that decide no result
    may change: more `evaluations`, finalists (`count`) or `anchors`, other `evaluators`, `workers` or `trackers`.

    Example: `manynet resume runs/mine --set search.evaluations=400 --set finalists.anchors=12`
    """
    from manynet.studies.on_record import recorded
    from manynet.studies.study import Study
    from manynet.studies.sweep import Sweep

    experiment = recorded(folder, changes or [])
    if experiment.sweep:
        _run_sweep(Sweep.begin(experiment))
    else:
        _run_study(Study.begin(experiment, folder))


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
    from manynet.studies.findings import Findings

    record = Findings.open(folder).best(column, where)
    table = Table("column", "value", title=f"{record.kind} {_name(record)}")
    for name, value in record.metrics.items():
        unit = " (ms)" if name.startswith(LATENCY) else ""
        table.add_row(f"{name}{unit}", _figure(value))
    for name, value in record.architecture.items():
        table.add_row(name, str(value), style="dim")
    if "folder" in record.details:
        table.add_row("folder", join(folder, record.details["folder"]))
    Console().print(table)


def report(folder: Folder) -> None:
    """Write `report.html` again from what the study holds now."""
    from manynet.studies import on_record
    from manynet.studies.findings import Findings, write_page
    from manynet.studies.sweep import Sweep

    if on_record.read(folder).sweep:
        sweep = Sweep.open(folder)
        sweep.report()
        _show_sweep(sweep)
    else:
        findings = Findings.open(folder)
        write_page(findings)
        _show(findings)


def _run_study(study: Study) -> None:
    from manynet.studies.findings import Findings

    with _resumable(study.folder):
        study.run()
    _show(Findings.open(study.folder))


def _run_sweep(sweep: Sweep) -> None:
    with _resumable(sweep.folder):
        sweep.run()
    _show_sweep(sweep)


def _show_sweep(sweep: Sweep) -> None:
    for name, findings in sweep.findings():
        Console().print(f"[bold]{name}[/]", soft_wrap=True)
        _show(findings)
    Console().print(f"all studies: {join(sweep.folder, 'report.html')}", soft_wrap=True)


@contextmanager
def _resumable(folder: str) -> Iterator[None]:
    """Leave an interrupted study with a word on how to go on."""
    from manynet.training.runs import TrainingStopped

    try:
        yield
    except (KeyboardInterrupt, TrainingStopped) as stop:
        stopped(stop, f"`manynet resume {folder}`")


def _show(findings: Findings) -> None:
    console, metric = Console(), findings.facts.metric
    finalists = findings.finalists()
    if finalists:
        wanted = (f"test_{metric}", metric, "parameters", "macs")
        columns = [c for c in wanted if c in finalists[0].metrics]
        columns += [c for c in finalists[0].metrics if c.startswith("latency@")]
        # In 80 columns, the width where there is no terminal.
        table = Table(title="Finalists", box=SIMPLE_HEAD)
        # Names of folders are copied from here.
        table.add_column("in finalists/", no_wrap=True)
        for name in columns:
            heading = name.replace(LATENCY, "ms on\n").replace("test_", "test_\n").replace("/", "/\n")
            table.add_column(heading, overflow="fold")
        for record in finalists:
            table.add_row(_name(record), *(_figure(record.metrics[c]) for c in columns))
        console.print(table)
    baseline = findings.facts.baseline if finalists else None
    if baseline is not None:
        console.print(f"{baseline[0]}: {baseline[1]:.4f} test {metric} on the same split")
    ranking = findings.ranking()
    if ranking is not None:
        console.print(ranking.verdict, style=None if ranking.carries_search else "yellow", soft_wrap=True)
    console.print(f"report: {join(findings.folder, 'report.html')}", soft_wrap=True)


def _name(record: Record) -> str:
    """A finalist goes by its folder in ``finalists/``."""
    return str(record.details.get("folder", record.key)).removeprefix("finalists/")


def _figure(value: float) -> str:
    return f"{value:,.4f}" if abs(value) < 1000 else f"{value:,.0f}"
