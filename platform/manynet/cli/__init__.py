"""The command line."""

from __future__ import annotations

import logging
import os
import sys
from typing import Any, NoReturn

import typer
from rich.console import Console
from rich.logging import RichHandler

from manynet.cli import studies
from manynet.cli.convert import convert
from manynet.cli.devices import devices
from manynet.cli.examples import examples
from manynet.cli.front import front
from manynet.cli.published import import_set
from manynet.cli.rank import rank
from manynet.cli.scaling import scale
from manynet.cli.submit import submit
from manynet.cli.tables import table
from manynet.cli.transfer import transfer
from manynet.cli.watch import watch
from manynet.errors import ManynetError
from manynet.storage import is_full

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
STUDY_COMMANDS = (studies.run, studies.resume, studies.best, studies.report)
for command in (
    *STUDY_COMMANDS,
    examples,
    watch,
    submit,
    front,
    devices,
    table,
    transfer,
    scale,
    convert,
    rank,
):
    app.command()(command)
# "import" is a keyword of Python, so the function has another name.
app.command("import")(import_set)


def _logging_options(console: Console) -> dict[str, Any]:
    """Logging options; without a terminal, as in a job, lines are not wrapped."""
    if console.is_terminal:
        return {"format": "%(message)s", "handlers": [RichHandler(console=console, show_path=False)]}
    return {"format": "%(asctime)s %(levelname)s %(message)s", "datefmt": "%H:%M:%S"}


def main() -> None:
    """Entry point. Errors that the user can fix are one line, not a traceback."""
    # Lets users import spaces from the working directory.
    sys.path.insert(0, os.getcwd())
    logging.basicConfig(level=logging.WARNING, **_logging_options(Console(stderr=True)))
    logging.getLogger("manynet").setLevel(logging.INFO)
    try:
        app(standalone_mode=True)
    except ManynetError as error:
        _exit_with(str(error))
    except OSError as error:
        # Any writer can fail here: Ray keeps files on this machine, too.
        if not is_full(error):
            raise
        _exit_with(f"there must be room on this machine's disks, but one is full: {error}")


def _exit_with(message: str) -> NoReturn:
    Console(stderr=True).print(f"Error: {message}", style="red", markup=False, soft_wrap=True)
    sys.exit(1)
