"""Exit of an interrupted command."""

from __future__ import annotations

from typing import NoReturn

import typer
from rich.console import Console


def stopped(stop: BaseException, command: str) -> NoReturn:
    """Print the reason and the ``command`` that resumes, and exit with code 130."""
    console = Console(stderr=True)
    console.print(str(stop) or "stopped", markup=False, soft_wrap=True)
    console.print(f"{command} goes on", markup=False, soft_wrap=True)
    raise typer.Exit(130) from None
