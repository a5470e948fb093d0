"""Command that compares ways to train a supernet."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from manynet.cli.stopping import stopped


def rank(
    file: Annotated[Path, typer.Argument(help="File of a comparison (YAML).", show_default=False)],
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Replace one of the file's values; may be repeated."),
    ] = None,
) -> None:
    """Compare how well ways to train a supernet rank subnets.

    Trains anchors (reference architectures) alone, and one supernet for each strategy and space; scores the anchors
    with the supernet's weights, with and without fine-tuning their last layer; prints the rank correlation. The file's keys are `study`
    (the folder), `data`, `spaces`, `strategies`, `train`, `anchors` and `score`. Started again, it goes on.

    Example: `manynet rank examples/nasrec-ranking.yaml`
    """
    from manynet.config.ranking import read_rank_settings
    from manynet.studies.ranking import RankingStudy, order, verdict
    from manynet.training.runs import TrainingStopped

    settings = read_rank_settings(file, changes or [])
    try:
        rows = RankingStudy(settings).run()
    except (KeyboardInterrupt, TrainingStopped) as stop:
        stopped(stop, f"`manynet rank {file}`")
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
