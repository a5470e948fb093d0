"""Command that shows the progress of a run."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

if TYPE_CHECKING:
    from manynet.cli.watching.sources import Source

SECONDS_BETWEEN = 2.0


def watch(
    run: Annotated[
        str,
        typer.Argument(
            help="Folder of a study or a sweep, or its filesystem address; or the address of a Ray cluster: "
            "`auto`, `host:port` or `ray://host:port`.",
            show_default=False,
        ),
    ],
    once: Annotated[bool, typer.Option("--once", help="Print the current state, and exit.")] = False,
    until_done: Annotated[bool, typer.Option("--until-done", help="Exit when the run ends.")] = False,
) -> None:
    """Watch a run: its step, front, hypervolume, rates, time left and devices.

    It reads a few small files of the study, from any machine that reaches them, and does not disturb the run. For a Ray
    cluster it shows all running searches. Without a terminal, it prints a line for each change.

    Example: `manynet watch runs/mine`
    """
    from manynet.cli.watching.sources import source

    read = source(run)
    console = Console()
    try:
        if once:
            from manynet.cli.watching.view import page

            console.print(page(read(), console.width, console.height, time.time()))
        elif console.is_terminal:
            _live(read, console, until_done)
        else:
            _lines(read, until_done)
    except KeyboardInterrupt:
        return


def _live(read: Source, console: Console, until_done: bool) -> None:
    """Redraw the page on an alternate screen, and print its last state at the end."""
    from rich.live import Live

    from manynet.cli.watching.view import page
    from manynet.errors import ManynetError

    studies, note = read(), ""
    with Live(console=console, screen=True, auto_refresh=False, redirect_stderr=False) as live:
        while True:
            live.update(page(studies, console.width, console.height, time.time(), note), refresh=True)
            if until_done and studies and all(study.over for study in studies):
                break
            time.sleep(SECONDS_BETWEEN)
            try:
                studies, note = read(), ""
            except ManynetError as error:
                # Storage may be unavailable for a while.
                note = str(error)
    console.print(page(studies, console.width, console.height, time.time()))


def _lines(read: Source, until_done: bool) -> None:
    from manynet.cli.watching.view import line

    last = ""
    while True:
        studies = read()
        text = line(studies, time.time())
        if text != last:
            print(text, flush=True)
            last = text
        if until_done and studies and all(study.over for study in studies):
            return
        time.sleep(SECONDS_BETWEEN)
