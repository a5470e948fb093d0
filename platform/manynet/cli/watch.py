"""The command that shows how far a run is, while it goes on."""

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
    once: Annotated[bool, typer.Option("--once", help="Print how it is now, and end.")] = False,
    until_done: Annotated[bool, typer.Option("--until-done", help="End when the run does.")] = False,
) -> None:
    """Watch a run: its step, front, hypervolume, rates, time left and devices.

    It reads a few small files of the study, from wherever they are reached, and disturbs nothing. Of a Ray cluster it
    shows the searches that run there. Where there is no terminal, it prints a line whenever something new is told.

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
    """A page that is drawn anew, on a screen of its own; how it was last stays behind."""
    from rich.live import Live

    from manynet.cli.watching.view import page
    from manynet.errors import ManynetError

    seen, note = read(), ""
    with Live(console=console, screen=True, auto_refresh=False, redirect_stderr=False) as live:
        while True:
            live.update(page(seen, console.width, console.height, time.time(), note), refresh=True)
            if until_done and seen and all(one.over for one in seen):
                break
            time.sleep(SECONDS_BETWEEN)
            try:
                seen, note = read(), ""
            except ManynetError as error:
                # Storage that is away for a while is no reason to leave.
                note = str(error)
    console.print(page(seen, console.width, console.height, time.time()))


def _lines(read: Source, until_done: bool) -> None:
    from manynet.cli.watching.view import line

    last = ""
    while True:
        seen = read()
        now = line(seen, time.time())
        if now != last:
            print(now, flush=True)
            last = now
        if until_done and seen and all(one.over for one in seen):
            return
        time.sleep(SECONDS_BETWEEN)
