"""Scaling strategies: the factors by which a family's quantities grew, applied to another family.

Hardware-aware ViT scaling (doi 10.1145/3611387) finds how depth, width, resolution and patches of a vanilla
vision transformer should be scaled for a budget, and applies that to other families.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from ray.tune.search.sample import Categorical, Integer

from manynet import references
from manynet.errors import ManynetError
from manynet.space.domains import Options, Value, allowed, bounds, extremes, size, step_of
from manynet.space.search_space import Architecture, SearchSpace
from manynet.space.subnet import cost

SCALED = ("depth", "width", "resolution", "patch")
"""Quantities that every family has; others, such as heads, are scaled where both families have them."""
TOLERANCES = (0.03, 0.05, 0.1)
"""How far multiply-adds may be from a budget, as shares of it: the first that any architecture meets."""
MOST = 2000
"""Architectures that are costed in search of the nearest."""

Scales = Callable[[Architecture], Mapping[str, float | Sequence[float]]]
Quantities = Mapping[str, tuple[float, ...]]


class ScalingError(ManynetError, ValueError):
    """A family cannot be scaled, or not to the budget asked for."""


@dataclass(frozen=True)
class Family:
    """A search space whose architectures are scaled versions of one.

    Attributes:
        space: the search space.
        scales: gives an architecture's ``depth``, ``width``, ``resolution``, ``patch`` and what else may be
            scaled, each a number above 0, or a number for each part (stage) that chooses for itself.
        default: the architecture that is scaled.
    """

    space: SearchSpace
    scales: Scales
    default: Architecture

    def __post_init__(self) -> None:
        self.quantities(self.space.canonical(self.default))

    @classmethod
    def load(cls, space: str, default: str) -> Family:
        """The family of two references; the space's module holds its ``scales``.

        Raises:
            ManynetError: when one of the three is not there, or they do not fit.
        """
        found = references.load_one(SearchSpace, space)
        place = space.rpartition(":")[0]
        try:
            scales = references.load(f"{place}:scales")
        except references.UnknownNameError:
            raise ScalingError(
                f"a space is scaled by the function scales of its module, but {place} has none"
            ) from None
        return cls(found, scales, references.load_one(dict, default))

    def quantities(self, arch: Architecture) -> Quantities:
        """What may be scaled, a number for each part.

        Raises:
            ScalingError: when one is missing, or is no number above 0.
        """
        found = {
            name: tuple(value) if isinstance(value, Sequence) else (value,)
            for name, value in self.scales(arch).items()
        }
        if any(name not in found for name in SCALED):
            raise ScalingError(
                f"scales of {self.space.name!r} must give {', '.join(SCALED)}, but got {', '.join(found)}"
            )
        for name, parts in found.items():
            if not parts or not all(part > 0 and math.isfinite(part) for part in parts):
                raise ScalingError(
                    f"scales of {self.space.name!r} must give numbers above 0, but got {name} {parts}"
                )
        return found


@dataclass(frozen=True)
class Scaled:
    """An architecture that is scaled to a budget.

    Attributes:
        arch: the architecture, canonical.
        macs: its multiply-adds.
        budget: those asked for.
        tolerance: the share of the budget within which it was looked for.
        distance: from what the factors ask for: squared differences of logarithms, summed over quantities.
    """

    arch: Architecture
    macs: int
    budget: int
    tolerance: float
    distance: float


def factors(family: Family, found: Architecture) -> dict[str, float]:
    """The strategy: by which factor each quantity of ``found`` is that of the default; parts are averaged."""
    before, after = family.quantities(family.default), family.quantities(found)
    return {name: fmean(after[name]) / fmean(before[name]) for name in before}


def nearest(family: Family, strategy: Mapping[str, float], macs: int | None = None) -> Scaled:
    """The architecture nearest to the scaled default among those that meet a budget.

    Nearest by least squares: the sum over quantities of the squared logarithm of what it has over what is
    asked for, averaged over parts, all of which are scaled alike. Among equals, what changes fewest choices.
    Architectures are tried from the nearest on. The order is exact where each part of a quantity is one
    choice's; elsewhere it is a local search.

    Args:
        family: that is scaled.
        strategy: factors by quantity; one that is not named stays as it is, as far as the budget lets it.
        macs: the budget; None is what the default takes.

    Raises:
        ScalingError: for a quantity that the family does not have, or a budget not met within 10 %.
    """
    wanted = _wanted(family, strategy)
    budget = cost(family.space, family.default).macs if macs is None else macs
    _check_budget(family.space, budget)
    off: list[tuple[float, Scaled]] = []
    for distance, arch in itertools.islice(_by_distance(family, wanted), MOST):
        price = cost(family.space, arch).macs
        share = abs(price / budget - 1)
        off.append((share, Scaled(arch, price, budget, TOLERANCES[0], distance)))
        if share <= TOLERANCES[0]:
            return off[-1][1]
    for tolerance in TOLERANCES[1:]:
        for share, scaled in off:
            if share <= tolerance:
                return Scaled(scaled.arch, scaled.macs, budget, tolerance, scaled.distance)
    closest = min(off, key=lambda entry: entry[0])[1]
    raise ScalingError(
        f"macs must be within {TOLERANCES[-1]:.0%} of an architecture of {family.space.name!r}, "
        f"but got {budget:,}: of the {len(off):,} nearest to what is asked for, "
        f"the closest takes {closest.macs:,}"
    )


def _wanted(family: Family, strategy: Mapping[str, float]) -> dict[str, tuple[float, ...]]:
    """Logarithms of the scaled default's quantities."""
    default = family.quantities(family.default)
    for name, factor in strategy.items():
        if name not in default:
            raise ScalingError(
                f"a quantity of {family.space.name!r} must be one of ({', '.join(default)}), but got {name!r}"
            )
        if not (factor > 0 and math.isfinite(factor)):
            raise ScalingError(f"a factor must be a number above 0, but got {name} {factor}")
    return {
        name: tuple(math.log(part * strategy.get(name, 1.0)) for part in parts)
        for name, parts in default.items()
    }


def _check_budget(space: SearchSpace, budget: int) -> None:
    least, most = cost(space, space.smallest).macs, cost(space, space.largest).macs
    margin = 1 + TOLERANCES[-1]
    if not least <= budget * margin or not budget <= most * margin:
        raise ScalingError(
            f"macs must be from {least:,} to {most:,}, which {space.name!r} reaches, but got {budget:,}"
        )


def _by_distance(
    family: Family, wanted: Mapping[str, tuple[float, ...]]
) -> Iterator[tuple[float, dict[str, Value]]]:
    """Canonical architectures, from the nearest on: best-first search from it, by changes of one choice.

    Where each choice adds its own term to the distance, any architecture is reached from the nearest by steps
    that only add, so none is overtaken by one that is farther.
    """
    space = family.space
    options = {key: _listed(key, domain) for key, domain in space.domains.items()}
    # Choices that cannot matter yet begin as the largest does.
    base = {key: family.default.get(key, extremes(domain)[0]) for key, domain in space.domains.items()}

    def rank(arch: Mapping[str, Any]) -> tuple[float, int]:
        return _distance(family, arch, wanted), sum(arch[key] != base[key] for key in base)

    first = _descended(space, base, options, rank)
    order = itertools.count()
    queue = [(rank(first), next(order), first)]
    pushed, seen = {tuple(first.values())}, set()
    while queue:
        (distance, _), _, arch = heapq.heappop(queue)
        canonical = space.canonical(arch)
        if tuple(canonical.items()) in seen:
            continue
        seen.add(tuple(canonical.items()))
        yield distance, canonical
        # Changes of what cannot matter would be the same architecture again.
        for key in canonical:
            for option in options[key]:
                neighbour = space.valid({**base, **canonical, key: option})
                if tuple(neighbour.values()) not in pushed:
                    pushed.add(tuple(neighbour.values()))
                    heapq.heappush(queue, (rank(neighbour), next(order), neighbour))


def _descended(
    space: SearchSpace,
    start: dict[str, Value],
    options: Mapping[str, Sequence[Value]],
    rank: Callable[[Mapping[str, Any]], tuple[float, int]],
) -> dict[str, Value]:
    """The lowest rank that changes of one choice lead to."""
    arch, before = space.valid(start), None
    while arch != before:
        before = arch
        for key in options:
            arch = min([arch, *(space.valid({**arch, key: option}) for option in options[key])], key=rank)
    return arch


def _distance(family: Family, arch: Architecture, wanted: Mapping[str, tuple[float, ...]]) -> float:
    squares = []
    found = family.quantities(arch)
    for name, targets in wanted.items():
        parts = found.get(name, ())
        if len(parts) != len(targets):
            raise ScalingError(
                f"scales of {family.space.name!r} must give {len(targets)} of {name} as of the default, "
                f"but got {len(parts)}"
            )
        squares.append(
            fmean((math.log(part) - target) ** 2 for part, target in zip(parts, targets, strict=True))
        )
    # Sums that differ by rounding alone must be equal, for the number of changes to decide.
    return round(math.fsum(squares), 12)


def _listed(key: str, domain: Options) -> list[Value]:
    """All options of a choice."""
    if isinstance(domain, Categorical):
        return list(domain.categories)
    if math.isinf(size(domain)):
        raise ScalingError(f"scaling needs choices that can be listed, but {key} is {allowed(domain)}")
    lowest, highest = bounds(domain)
    step = step_of(domain) or 1
    kind = int if isinstance(domain, Integer) else float
    return [
        kind(step * number)
        for number in range(math.ceil(lowest / step - 1e-9), math.floor(highest / step + 1e-9) + 1)
    ]
