"""The frame of a benchmark: its command line, its tables, its bars, and the JSON line that it ends with.

A script measures and returns figures; :func:`run` does the rest. Exit status is 1 where a bar is missed. With
``--quick`` sizes are small, so that a test can run the script, and bars are not judged.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

WIDTH = 140
OUTPUT = Path(__file__).parents[1] / "output"
DIGITS = 5
"""Significant digits of a printed figure."""
Figures = Mapping[str, Any]
"""Numbers by name, or mappings and sequences of them. None is what could not be measured here."""


@dataclass(frozen=True)
class Bar:
    """A bound on a figure.

    Attributes:
        bound: meets the bar itself.
        upper: whether figures must not be above the bound; else they must not be below.
    """

    bound: float
    upper: bool

    def met(self, figure: float) -> bool:
        """Whether a figure keeps to the bound. NaN never does."""
        return bool(figure <= self.bound if self.upper else figure >= self.bound)

    def __str__(self) -> str:
        return f"{'<=' if self.upper else '>='} {self.bound:,g}"


def at_most(bound: float) -> Bar:
    """An upper bound."""
    return Bar(bound, upper=True)


def at_least(bound: float) -> Bar:
    """A lower bound."""
    return Bar(bound, upper=False)


@dataclass(frozen=True)
class Option:
    """An argument of the command line.

    Attributes:
        flag: with its dashes.
        default: gives the type too; a sequence takes several values.
        help: for ``--help``.
        quick: default of a quick run; None is the same.
        kind: type where the default does not tell it.
        choices: allowed values.
    """

    flag: str
    default: Any
    help: str = ""
    quick: Any = None
    kind: type | None = None
    choices: Sequence[Any] | None = None

    @property
    def name(self) -> str:
        """Attribute of the parsed arguments."""
        return self.flag.lstrip("-").replace("-", "_")

    def add_to(self, parser: argparse.ArgumentParser) -> None:
        """Declare the argument; what is not given is left out of the parsed arguments."""
        several = isinstance(self.default, (list, tuple))
        example = self.default[0] if several and self.default else self.default
        quick = "" if self.quick is None else f", quick: {_plain(self.quick)}"
        text = f"{self.help} (default: {_plain(self.default)}{quick})".strip().replace("%", "%%")
        parser.add_argument(
            self.flag,
            type=self.kind or type(example),
            nargs="*" if several else None,
            default=argparse.SUPPRESS,
            choices=self.choices,
            help=text,
        )


def _plain(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def run(
    measure: Callable[[argparse.Namespace], Figures],
    *,
    file: str,
    about: str | None,
    options: Iterable[Option] = (),
    bars: Mapping[str, Bar] | None = None,
) -> None:
    """Run a benchmark: parse, measure, print bars, end with a JSON line, exit with 1 where a bar is missed.

    Args:
        measure: takes the parsed arguments, ``quick`` and ``output`` among them, prints its tables and returns figures.
        file: of the script.
        about: its docstring.
        options: of the script besides ``--quick``.
        bars: by the name of their figure.
    """
    options = tuple(options)
    given = parsed(options, about)
    _silence()
    figures = measure(given)
    verdicts = judged(figures, bars or {}, given.quick)
    if bars:
        show_bars(figures, bars, verdicts, given.quick)
    print(in_json(Path(file).stem, figures, bars or {}, verdicts, given.quick), flush=True)
    if False in verdicts.values():
        sys.exit(1)


def parsed(
    options: Sequence[Option], about: str | None, arguments: Sequence[str] | None = None
) -> argparse.Namespace:
    """The command line, with ``quick`` and the folder ``output`` for files of the benchmark."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes; bars are not judged")
    for option in options:
        option.add_to(parser)
    given = parser.parse_args(arguments)
    for option in options:
        if option.name not in given:
            small = given.quick and option.quick is not None
            setattr(given, option.name, option.quick if small else option.default)
    # Files of quick runs must not replace those of whole ones.
    given.output = OUTPUT / "quick" if given.quick else OUTPUT
    return given


def _silence() -> None:
    """Keep what PyTorch's exporters say of themselves out of the tables."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning)


def judged(figures: Figures, bars: Mapping[str, Bar], quick: bool) -> dict[str, bool | None]:
    """Whether each bar is met; None in quick runs, and where there is no figure on this machine.

    Raises:
        KeyError: a bar's figure is missing, so the bar would never be judged.
    """
    verdicts: dict[str, bool | None] = {}
    for name, bar in bars.items():
        if name not in figures:
            raise KeyError(f"a bar needs a figure of its name, but {name!r} is not in ({', '.join(figures)})")
        figure = figures[name]
        verdicts[name] = None if quick or figure is None else bar.met(figure)
    return verdicts


def in_json(
    name: str, figures: Figures, bars: Mapping[str, Bar], verdicts: Mapping[str, bool | None], quick: bool
) -> str:
    """The last line of a benchmark. ``pass`` is null where nothing is judged."""
    known = [verdict for verdict in verdicts.values() if verdict is not None]
    line = {
        "benchmark": name,
        "quick": quick,
        "figures": rounded(figures),
        "bars": {
            key: {"at_most" if bar.upper else "at_least": bar.bound, "met": verdicts[key]}
            for key, bar in bars.items()
        },
        "pass": all(known) if known else None,
    }
    return json.dumps(line, allow_nan=False)


def rounded(value: Any) -> Any:
    """Figures as JSON holds them: floats to some significant digits, None in place of what is not finite."""
    if isinstance(value, Mapping):
        return {str(key): rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    return value


def show(title: str, columns: Sequence[str], rows: Iterable[Sequence[str] | None]) -> None:
    """Print a table; a row of None is a line between sections."""
    table = Table(*columns, title=title)
    for row in rows:
        if row is None:
            table.add_section()
        else:
            table.add_row(*row)
    Console(width=WIDTH).print(table)


def show_bars(
    figures: Figures, bars: Mapping[str, Bar], verdicts: Mapping[str, bool | None], quick: bool
) -> None:
    """Print each bar beside its figure."""
    words = {True: "met", False: "MISSED", None: "not judged"}
    rows = []
    for name, bar in bars.items():
        figure = "not measured" if figures[name] is None else f"{figures[name]:,.{DIGITS}g}"
        rows.append((name, figure, str(bar), words[verdicts[name]]))
    show("bars; not judged in a quick run" if quick else "bars", ("figure", "is", "bar", ""), rows)
