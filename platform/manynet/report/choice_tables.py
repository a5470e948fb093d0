"""HTML tables of the front's choices: one for each choice, with a row for each place in the network."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from manynet.report.choices import NOT_THERE, Mix

FRONT_RGB, ABSENT_RGB = "37, 99, 235", "107, 114, 128"
DEEPEST = 0.45
"""Opacity of a share of 1: text stays readable on it."""


def choice_tables(shown: Sequence[Mix]) -> str:
    """Tables side by side, with shares shaded."""
    return f'<div class="mixes">{"".join(map(_table, shown))}</div>'


def _table(mix: Mix) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in (mix.name, *mix.columns))
    rows = "".join(f"<tr><td>{escape(_place(key))}</td>{_cells(mix, key)}</tr>" for key in mix.counts)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _place(key: str) -> str:
    """Place of a choice in the network."""
    return key.rpartition(".")[0] or "network"


def _cells(mix: Mix, key: str) -> str:
    return "".join(map(_cell, mix.columns, mix.shares(key)))


def _cell(column: str, share: float) -> str:
    if not share:
        return "<td>–</td>"
    rgb = ABSENT_RGB if column == NOT_THERE else FRONT_RGB
    return f'<td style="background: rgba({rgb}, {DEEPEST * share:.2f})">{share:.0%}</td>'
