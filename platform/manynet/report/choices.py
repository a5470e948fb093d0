"""Choices of a search's front: for each choice, the share of architectures with each option."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from manynet.records.ledger import Record
from manynet.report.content import ReportError

NOT_THERE = "not there"
OTHERS = "others"
MOST_OPTIONS = 8
"""Options listed separately. Of more, numbers are binned, and of other values the most frequent are kept."""
INTERVALS = 4


@dataclass(frozen=True)
class Mix:
    """Options of one choice in some architectures, by place: ``attention`` of each block, for example.

    Attributes:
        name: last part of the architectures' keys.
        options: texts, in order.
        counts: number of architectures with each option, by key.
        absent: number of architectures without the key, which is inactive in them, such as blocks beyond the depth.
        varied: keys that differ between evaluated architectures.
    """

    name: str
    options: tuple[str, ...]
    counts: Mapping[str, tuple[int, ...]]
    absent: Mapping[str, int]
    varied: frozenset[str]

    @property
    def columns(self) -> tuple[str, ...]:
        """The options, then "not there" if the choice is absent anywhere."""
        return (*self.options, NOT_THERE) if any(self.absent.values()) else self.options

    def shares(self, key: str) -> tuple[float, ...]:
        """Share of the architectures in each of ``columns``; the shares sum to 1."""
        counts = (*self.counts[key], self.absent[key])
        return tuple(count / sum(counts) for count in counts)[: len(self.columns)]

    def narrowed(self, keys: Sequence[str]) -> Mix:
        """The mix with these keys only."""
        counts = {key: self.counts[key] for key in keys}
        absent = {key: self.absent[key] for key in keys}
        return Mix(self.name, self.options, counts, absent, self.varied & set(keys))


def mixes(front: Sequence[Record], evaluated: Sequence[Record]) -> list[Mix]:
    """Choices of the architectures of ``front``, a mix for each.

    Args:
        front: some of ``evaluated``; at least one.
        evaluated: give the keys and options, including those that no architecture on the front has.
    """
    keys = dict.fromkeys(key for record in evaluated for key in record.architecture)
    names = dict.fromkeys(key.rpartition(".")[2] for key in keys)
    grouped = {
        name: sorted((key for key in keys if key.rpartition(".")[2] == name), key=_numbered) for name in names
    }
    return [_mix(name, places, front, evaluated) for name, places in grouped.items()]


def varied(every: Sequence[Mix]) -> list[Mix]:
    """Only keys that differ between evaluated architectures."""
    narrowed = [mix.narrowed([key for key in mix.counts if key in mix.varied]) for mix in every]
    return [mix for mix in narrowed if mix.counts]


def containing(every: Sequence[Mix], text: str) -> list[Mix]:
    """Only the keys that contain ``text``, such as ``attention`` or ``block3``.

    Raises:
        ReportError: when no key does.
    """
    narrowed = [mix.narrowed([key for key in mix.counts if text in key]) for mix in every]
    kept = [mix for mix in narrowed if mix.counts]
    if not kept:
        names = ", ".join(mix.name for mix in every)
        raise ReportError(f"a choice must be part of a key, such as ({names}), but got {text!r}")
    return kept


def in_order(value: Any) -> tuple[bool, float, str]:
    """Sorts options: numbers by size, then anything else by name."""
    number = isinstance(value, int | float)
    return not number, float(value) if number else 0.0, str(value)


def _mix(name: str, keys: Sequence[str], front: Sequence[Record], evaluated: Sequence[Record]) -> Mix:
    labels = _labels(keys, front, evaluated)
    options = tuple(dict.fromkeys(labels.values()))
    counts, absent = {}, {}
    for key in keys:
        chosen = Counter(labels[r.architecture[key]] for r in front if key in r.architecture)
        counts[key] = tuple(chosen[option] for option in options)
        absent[key] = len(front) - chosen.total()
    different = {key: {r.architecture.get(key) for r in evaluated} for key in keys}
    return Mix(name, options, counts, absent, frozenset(key for key in keys if len(different[key]) > 1))


def _labels(keys: Sequence[str], front: Sequence[Record], evaluated: Sequence[Record]) -> dict[Any, str]:
    """Labels of options, in order; options may share a label."""
    options = sorted(_chosen(keys, evaluated), key=in_order)
    if len(options) <= MOST_OPTIONS:
        return {option: str(option) for option in options}
    if all(isinstance(option, int | float) for option in options):
        parts = [part.tolist() for part in np.array_split(np.array(options), INTERVALS)]
        return {option: f"{part[0]:.6g} to {part[-1]:.6g}" for part in parts for option in part}
    frequent = (_chosen(keys, front) + _chosen(keys, evaluated)).most_common(MOST_OPTIONS - 1)
    kept = [option for option in options if option in dict(frequent)]
    return {option: str(option) for option in kept} | {
        option: OTHERS for option in options if option not in kept
    }


def _chosen(keys: Sequence[str], records: Sequence[Record]) -> Counter[Any]:
    return Counter(r.architecture[key] for r in records for key in keys if key in r.architecture)


def _numbered(key: str) -> list[tuple[int, str]]:
    """Sorts ``block10`` behind ``block9``."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", key)]
