"""The architecture with most or fewest multiply-adds, found with few readings of the network."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from manynet.space.domains import Options, Value, extremes

_MANY = 64
"""Numbers of more choices than this are not tried one by one where a whole part of them cannot be bettered."""


def costliest(
    domains: Mapping[str, Options],
    macs: Callable[[Mapping[str, Any]], float],
    start: Mapping[str, Value],
    sign: int,
) -> dict[str, Value]:
    """The architecture with most (``sign`` 1) or fewest (-1) multiply-adds that changes of ``start`` lead to.

    Choices with the same name, but for numbers in it, and the same options (``block0.width``, ``block1.width``) are
    first set alike. Then each that the cost depends on is set alone: numbers only to the other end of their range,
    unless that is better. Of more than 64 alike numbers, only those of parts that are better set otherwise.

    Args:
        domains: of all choices.
        macs: multiply-adds of an architecture with a value for every key.
        start: has a value for every key.
        sign: of what is maximised.
    """
    climb = _Climb(macs, start, sign)
    groups: dict[tuple[str, tuple[Value, ...]], list[str]] = {}
    for key, domain in domains.items():
        options = tuple(extremes(domain))
        if len(options) > 1:
            groups.setdefault((re.sub(r"\d+", "#", key), options), []).append(key)
    for (_, options), keys in groups.items():
        climb.set_alike(keys, options)
    for (_, options), keys in groups.items():
        for part in _parts(keys) if len(keys) > 1 else ():
            many = len(keys) > _MANY and not _holds_names(options)
            if climb.set_alike(part, options) if many else climb.depends_on(part, options):
                for key in part:
                    climb.set_alone(key, options)
    return climb.arch


class _Climb:
    """The best architecture so far."""

    def __init__(
        self, macs: Callable[[Mapping[str, Any]], float], start: Mapping[str, Value], sign: int
    ) -> None:
        self._macs, self._sign = macs, sign
        self.arch = dict(start)
        self._best = self._cost(start)

    def _cost(self, arch: Mapping[str, Value]) -> float:
        return self._sign * self._macs(arch)

    def set_alike(self, keys: Sequence[str], options: Iterable[Value]) -> bool:
        """Set all ``keys`` to the best option, if it is better; returns whether it is."""
        better = False
        for option in options:
            arch = self.arch | dict.fromkeys(keys, option)
            if arch != self.arch and (cost := self._cost(arch)) > self._best:
                self.arch, self._best, better = arch, cost, True
        return better

    def set_alone(self, key: str, options: Sequence[Value]) -> None:
        """Set one key to its best option."""
        ends = options if _holds_names(options) else [options[0], options[-1]]
        if self.set_alike([key], ends):
            self.set_alike([key], options)

    def depends_on(self, keys: Sequence[str], options: Sequence[Value]) -> bool:
        """Whether random settings of ``keys`` change the cost."""
        rng = random.Random(0)
        settings = [{key: rng.choice(options) for key in keys} for _ in range(3)]
        return any(self._cost(self.arch | setting) != self._best for setting in settings)


def _holds_names(options: Sequence[Value]) -> bool:
    return any(isinstance(option, str) for option in options)


def _parts(keys: Sequence[str]) -> list[Sequence[str]]:
    """Eight parts, or parts of eight."""
    size = max(8, math.ceil(len(keys) / 8))
    return [keys[first : first + size] for first in range(0, len(keys), size)]
