"""How a command that was stopped ends."""

from __future__ import annotations

from typing import NoReturn

import typer
from rich.console import Console


def stopped(stop: BaseException, command: str) -> NoReturn:
    """Say why it stopped and which ``command`` goes on, and exit as an interrupted program does."""
    console = Console(stderr=True)
    console.print(str(stop) or "stopped", markup=False, soft_wrap=True)
    console.print(f"{command} goes on", markup=False, soft_wrap=True)
    raise typer.Exit(130) from None
