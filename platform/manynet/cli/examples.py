"""Command that copies the examples, cluster files and job scripts that come with Manynet."""

from __future__ import annotations

import difflib
import json
import os
import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from manynet.errors import ManynetError

FILES = Path(__file__).parent / "example-files"
"""``examples/`` and ``clusters/`` with their requirements, laid out as in the repository."""


class ExampleError(ManynetError):
    """No example has the name, or a copy would overwrite a file."""


def examples(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME]...",
            help="Files or folders to copy, by path or by file name: `vit-digits`, `clusters`. [default: list all]",
            show_default=False,
        ),
    ] = None,
    to: Annotated[Path, typer.Option(help="Folder to copy into; paths in it are as listed.")] = Path("."),
) -> None:
    """List the experiment files, cluster files and job scripts that come with Manynet, or copy some.

    Nothing is overwritten. Job scripts and cluster files are made to be used from the folder copied into.

    Example: `manynet examples vit-digits && manynet run examples/vit-digits.yaml`
    """
    if not names:
        Console().print(_listed(available()))
        return
    for path in copy(names, to):
        Console().print(f"copied {path}", soft_wrap=True, highlight=False)


def available() -> list[str]:
    """Paths of all files, as in the repository."""
    paths = [Path(folder, name) for folder, _, names in os.walk(FILES, followlinks=True) for name in names]
    return sorted(str(path.relative_to(FILES)) for path in paths if path.suffix != ".pyc")


def copy(names: Sequence[str], to: Path) -> list[Path]:
    """Copy files into a folder; returns the copies.

    Raises:
        ExampleError: before anything is copied.
    """
    chosen = dict.fromkeys(path for name in names for path in matching(name, available()))
    copies = {FILES / path: to / path for path in chosen}
    for target in copies.values():
        if target.exists():
            raise ExampleError(
                f"nothing is overwritten, but {target} exists: move it away, or copy --to another folder"
            )
    for source, target in copies.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
    return list(copies.values())


def matching(name: str, paths: Iterable[str]) -> list[str]:
    """Paths that match a name: a path, a folder's path, or a file's name, with or without suffix.

    Raises:
        ExampleError: no path matches.
    """
    paths, name = list(paths), name.rstrip("/")
    matches = [path for path in paths if path == name or path.startswith(f"{name}/")]
    matches = matches or [path for path in paths if name in (Path(path).name, Path(path).stem)]
    if not matches:
        names = [*paths, *(Path(path).stem for path in paths)]
        near = "".join(f"; {close} is near" for close in difflib.get_close_matches(name, names, 1))
        raise ExampleError(f"an example must be one that `manynet examples` lists, but got {name!r}{near}")
    return matches


def about(path: str) -> str:
    """Description of a file: the first sentence of its leading comment, docstring or description."""
    text = (FILES / path).read_text()
    if path.endswith(".json"):
        return str(json.loads(text)["description"])
    if path.endswith(".py"):
        text = text.removeprefix('"""').partition("\n\n")[0].partition('"""')[0]
    else:
        lead = re.match(r"(?:#!.*\n)?((?:#.*\n)*)", text)
        assert lead is not None
        text = re.sub(r"^# ?", "", lead[1], flags=re.MULTILINE)
    sentence = re.match(r".*?[.?:](?=\s|$)|.*", " ".join(text.split()))
    assert sentence is not None
    return sentence[0].rstrip(".:")


def _listed(paths: Iterable[str]) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for path in paths:
        table.add_row(path, about(path))
    return table
