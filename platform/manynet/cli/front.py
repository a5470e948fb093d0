"""Command that prints a search's front, and the choices of its architectures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from manynet.report import ReportContent
    from manynet.report.choices import Mix


def front(
    folder: Annotated[
        str, typer.Argument(help="Folder of the study, or its filesystem address.", show_default=False)
    ],
    choice: Annotated[
        str | None,
        typer.Option(
            help="Only choices whose key contains this, e.g. attention or block3. [default: all that varied]"
        ),
    ] = None,
) -> None:
    """Print a study's Pareto front, and the choices of its architectures.

    For every choice it prints the share of the front's architectures with each option. Parts that an
    architecture does not have, such as blocks beyond its depth, are counted separately.

    Example: `manynet front runs/mine --choice heads`
    """
    from manynet.report.choices import containing, mixes, varied
    from manynet.studies.findings import Findings
    from manynet.studies.on_record import StudyError

    content = Findings.open(folder).search_content()
    if not content.front:
        evaluated = len(content.records)
        raise StudyError(
            f"a front needs evaluated subnets that meet every constraint, but got none of {evaluated}"
        )
    every = mixes(content.front, content.records)
    shown = varied(every) if choice is None else containing(every, choice)
    console = Console()
    console.print(_objectives(content))
    for mix in shown:
        console.print(_shares(mix))


def _objectives(content: ReportContent) -> Table:
    from manynet.records.formatting import show

    table = Table(title=f"{len(content.front)} of {len(content.records)} evaluated subnets are on the front")
    columns = list(
        dict.fromkeys([*(objective.column for objective in content.objectives), "parameters", "macs"])
    )
    for column in columns:
        table.add_column(escape(column), justify="right")
    for record in content.front:
        table.add_row(*(show(column, record.metrics.get(column)) for column in columns))
    return table


def _shares(mix: Mix) -> Table:
    table = Table(escape(mix.name), title_justify="left")
    for column in mix.columns:
        table.add_column(escape(column), justify="right")
    for key in mix.counts:
        table.add_row(escape(key), *(f"{share:.0%}" for share in mix.shares(key)))
    return table
