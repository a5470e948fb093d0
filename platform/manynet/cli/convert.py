"""Command that converts raw click-through logs to Parquet."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console


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
    table_rows: Annotated[int | None, typer.Option(help="Most rows of an embedding table.")] = None,
    tokens: Annotated[
        bool,
        typer.Option("--tokens", help="For `kdd:`, also join the tokens of queries, titles and so on."),
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the splits.")] = 0,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Drop and count bad rows instead of stopping.")
    ] = False,
) -> None:
    """Convert raw click-through logs to Parquet, for `data: parquet:FOLDER`.

    Logs are plain or gzipped, and streamed: memory does not grow with their size. Rows are split 8:1:1 within
    each class.

    Example: `manynet convert criteo:train.txt.gz clicks/criteo --table-rows 1000000`
    """
    from manynet.data.clicks.raw.convert import convert as convert_logs
    from manynet.telemetry.progress_bar import reading_bar

    schema = convert_logs(
        source,
        folder,
        table_rows=table_rows,
        tokens=tokens,
        seed=seed,
        skip_bad=skip_bad,
        bar=reading_bar,
    )
    Console().print(schema.summary, markup=False, highlight=False, soft_wrap=True)
