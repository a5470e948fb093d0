"""Command that transfers a scaling strategy to another family."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from manynet.cli.stopping import stopped

if TYPE_CHECKING:
    from manynet.studies.scaling import Comparison


def scale(
    folder: Annotated[
        str, typer.Argument(metavar="RUN", help="Folder of a searched study.", show_default=False)
    ],
    default: Annotated[
        str, typer.Option(help="`module:name` of the default of the study's space.", show_default=False)
    ],
    onto: Annotated[str, typer.Option(help="`module:name` of the space to scale.", show_default=False)],
    onto_default: Annotated[str, typer.Option(help="`module:name` of its default.", show_default=False)],
    macs: Annotated[
        int | None, typer.Option(help="Multiply-adds of both contenders.  [default: those of its default]")
    ] = None,
    found: Annotated[
        str | None,
        typer.Option(
            help="Key of an evaluation, or of its architecture.  "
            "[default: the best with the default's multiply-adds]"
        ),
    ] = None,
    data: Annotated[str | None, typer.Option(help="Data to train on.  [default: the study's]")] = None,
    seeds: Annotated[int, typer.Option(help="Trainings of each contender.")] = 3,
    steps: Annotated[int | None, typer.Option(help="Of each.  [default: the study's anchors']")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Of each.  [default: likewise]")] = None,
) -> None:
    """Apply a searched scaling strategy to another family, and test whether it helps.

    Another family's default is scaled by the factors between the found architecture and its default (depth,
    width, resolution, patches...), at equal multiply-adds. Default and scaled are trained from random weights by
    one recipe, several seeds each, and compared on the test split. Results are added to
    `RUN/scaling.json`. Started again, it goes on.

    Example: `manynet scale runs/vit --default search_spaces.vit:tiny_default --onto search_spaces.pit:tiny
    --onto-default search_spaces.pit:tiny_default`
    """
    from manynet.config.settings import TrainSettings
    from manynet.storage import join
    from manynet.studies.scaling import RESULTS, ScalingStudy, default_recipe
    from manynet.studies.scaling_factors import Family
    from manynet.studies.study import Study
    from manynet.training.runs import TrainingStopped

    study = Study.open(folder)
    changes = {"steps": steps, "learning_rate": learning_rate}
    overrides = {name: value for name, value in changes.items() if value is not None}
    comparison = ScalingStudy(
        study,
        Family.load(study.experiment.space, default),
        Family.load(onto, onto_default),
        recipe=TrainSettings.checked({**default_recipe(study).model_dump(), **overrides}),
        seeds=seeds,
        macs=macs,
        found=found,
        data=data,
    )
    try:
        result = comparison.run()
    except (KeyboardInterrupt, TrainingStopped) as stop:
        stopped(stop, "the same `manynet scale`")
    _show(result, join(folder, RESULTS))


def _show(result: Comparison, address: str) -> None:
    console = Console()
    console.print(_strategy(result))
    console.print(_contenders(result))
    if result.left_out:
        console.print(f"{result.target} has no {', '.join(result.left_out)}", markup=False)
    if result.widened:
        console.print(f"nothing was nearer to the budget than {result.tolerance:.0%}", style="yellow")
    console.print(result.verdict, markup=False, soft_wrap=True)
    console.print(f"all figures: {address}", markup=False, soft_wrap=True)


def _strategy(result: Comparison) -> Table:
    table = Table(title=f"The strategy, from {result.source} to {result.target}")
    names = (f"{result.source}\ndefault", "found", "factor", f"{result.target}\ndefault", "scaled")
    for name in ("", *names):
        table.add_column(name, overflow="fold")
    for name, factor in result.strategy.items():
        sides = (result.before, result.found, result.default.quantities, result.scaled.quantities)
        before, found, default, scaled = (_parts(side[name]) for side in sides)
        table.add_row(name, before, found, f"{factor:.2f}", default, scaled)
    others = [name for name in result.default.quantities if name not in result.strategy]
    for name in others:
        own = (_parts(side.quantities[name]) for side in (result.default, result.scaled))
        table.add_row(name, "", "", "", *own, style="dim")
    table.add_row("multiply-adds", f"{result.before_macs:,}", f"{result.found_macs:,}", "", *_macs(result))
    return table


def _contenders(result: Comparison) -> Table:
    table = Table(title=f"Trained alone on {result.data}")
    for name in ("", "multiply-adds", "parameters", f"test {result.metric}, mean and range"):
        table.add_column(name, overflow="fold")
    for name, side in (("default", result.default), ("scaled", result.scaled)):
        table.add_row(name, f"{side.macs:,}", f"{side.parameters:,}", escape(str(side)))
    return table


def _macs(result: Comparison) -> tuple[str, str]:
    return f"{result.default.macs:,}", f"{result.scaled.macs:,}"


def _parts(parts: Sequence[float]) -> str:
    return "-".join(f"{part:.3g}" for part in parts)
