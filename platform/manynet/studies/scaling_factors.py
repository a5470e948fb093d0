"""Scaling strategies: factors by which a family's quantities are scaled, applied to another family.

Hardware-aware ViT scaling (doi 10.1145/3611387) searches factors of depth, width, resolution and patches for a
vanilla vision transformer under a budget, and applies them to other families.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from manynet import references
from manynet.errors import ManynetError
from manynet.space.domains import Options, Value, allowed, extremes, listed, size
from manynet.space.search_space import Architecture, SearchSpace
from manynet.space.subnet import cost

SCALED = ("depth", "width", "resolution", "patch")
"""Quantities that every family has; others, such as heads, are scaled where both families have them."""
TOLERANCES = (0.03, 0.05, 0.1)
"""Relative deviations of multiply-adds from a budget, tried in order until an architecture meets one."""
MOST = 2000
"""Most architectures to cost in the search for the nearest."""

Scales = Callable[[Architecture], Mapping[str, float | Sequence[float]]]
Quantities = Mapping[str, tuple[float, ...]]


class ScalingError(ManynetError, ValueError):
    """A family cannot be scaled, or not to the budget asked for."""


@dataclass(frozen=True)
class Family:
    """A search space whose architectures are scaled versions of one.

    Attributes:
        space: the search space.
        scales: returns an architecture's ``depth``, ``width``, ``resolution``, ``patch`` and other quantities,
            each a number above 0, or one for each part (stage) with its own choice.
        default: the architecture to scale.
    """

    space: SearchSpace
    scales: Scales
    default: Architecture

    def __post_init__(self) -> None:
        self.quantities(self.space.canonical(self.default))

    @classmethod
    def load(cls, space: str, default: str) -> Family:
        """Load a family from two references; the space's module holds its ``scales``.

        Raises:
            ManynetError: when one of the three is missing, or they do not fit together.
        """
        loaded = references.make(SearchSpace, space)
        module = space.rpartition(":")[0]
        try:
            scales = references.load(f"{module}:scales")
        except references.UnknownNameError:
            raise ScalingError(
                f"a space is scaled by the function scales of its module, but {module} has none"
            ) from None
        return cls(loaded, scales, references.load_one(dict, default))

    def quantities(self, arch: Architecture) -> Quantities:
        """Quantities of an architecture, a number for each part.

        Raises:
            ScalingError: when one is missing, or is no number above 0.
        """
        quantities = {
            name: tuple(value) if isinstance(value, Sequence) else (value,)
            for name, value in self.scales(arch).items()
        }
        if any(name not in quantities for name in SCALED):
            raise ScalingError(
                f"scales of {self.space.name!r} must give {', '.join(SCALED)}, but got {', '.join(quantities)}"
            )
        for name, parts in quantities.items():
            if not parts or not all(part > 0 and math.isfinite(part) for part in parts):
                raise ScalingError(
                    f"scales of {self.space.name!r} must give numbers above 0, but got {name} {parts}"
                )
        return quantities


@dataclass(frozen=True)
class Scaled:
    """An architecture that is scaled to a budget.

    Attributes:
        arch: the architecture, canonical.
        macs: its multiply-adds.
        budget: the target multiply-adds.
        tolerance: the largest relative deviation from the budget that was allowed.
        distance: from the scaled default: squared differences of logarithms, summed over quantities.
    """

    arch: Architecture
    macs: int
    budget: int
    tolerance: float
    distance: float


def factors(family: Family, found: Architecture) -> dict[str, float]:
    """Scaling factors from the default to ``found``, by quantity; parts are averaged."""
    before, after = family.quantities(family.default), family.quantities(found)
    return {name: fmean(after[name]) / fmean(before[name]) for name in before}


def nearest(family: Family, strategy: Mapping[str, float], macs: int | None = None) -> Scaled:
    """The architecture nearest to the scaled default among those that meet a budget.

    The distance is the sum over quantities of the squared logarithm of actual over target value, averaged over
    parts, which share one factor. Ties go to the fewest changed choices. Architectures are tried in order of
    distance. The order is exact if each part of a quantity is one choice; otherwise it is a local search.

    Args:
        family: the family to scale.
        strategy: factors by quantity; others keep their value, as far as the budget allows.
        macs: the budget; None is that of the default.

    Raises:
        ScalingError: for a quantity that the family does not have, or a budget not met within 10 %.
    """
    targets = _targets(family, strategy)
    budget = cost(family.space, family.default).macs if macs is None else macs
    _check_budget(family.space, budget)
    tried: list[tuple[float, Scaled]] = []
    for distance, arch in itertools.islice(_by_distance(family, targets), MOST):
        arch_macs = cost(family.space, arch).macs
        share = abs(arch_macs / budget - 1)
        tried.append((share, Scaled(arch, arch_macs, budget, TOLERANCES[0], distance)))
        if share <= TOLERANCES[0]:
            return tried[-1][1]
    for tolerance in TOLERANCES[1:]:
        for share, scaled in tried:
            if share <= tolerance:
                return Scaled(scaled.arch, scaled.macs, budget, tolerance, scaled.distance)
    closest = min(tried, key=lambda entry: entry[0])[1]
    raise ScalingError(
        f"macs must be within {TOLERANCES[-1]:.0%} of an architecture of {family.space.name!r}, "
        f"but got {budget:,}: of the {len(tried):,} nearest to what is asked for, "
        f"the closest takes {closest.macs:,}"
    )


def _targets(family: Family, strategy: Mapping[str, float]) -> dict[str, tuple[float, ...]]:
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
    family: Family, targets: Mapping[str, tuple[float, ...]]
) -> Iterator[tuple[float, dict[str, Value]]]:
    """Canonical architectures by distance: best-first search from the nearest, changing one choice at a time.

    If each choice adds its own term to the distance, any architecture is reached from the nearest by steps that
    never decrease the distance, so the order is exact.
    """
    space = family.space
    options = {key: _listed(key, domain) for key, domain in space.domains.items()}
    # Choices without effect in the default start at their largest option.
    base = {key: family.default.get(key, extremes(domain)[0]) for key, domain in space.domains.items()}

    def rank(arch: Mapping[str, Any]) -> tuple[float, int]:
        return _distance(family, arch, targets), sum(arch[key] != base[key] for key in base)

    first = _descended(space, base, options, rank)
    order = itertools.count()
    queue = [(rank(first), next(order), first)]
    pushed, visited = {tuple(first.values())}, set()
    while queue:
        (distance, _), _, arch = heapq.heappop(queue)
        canonical = space.canonical(arch)
        if tuple(canonical.items()) in visited:
            continue
        visited.add(tuple(canonical.items()))
        yield distance, canonical
        # Changing a choice without effect would give the same architecture.
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
    """Coordinate descent: the lowest rank reached by changing one choice at a time."""
    arch, before = space.valid(start), None
    while arch != before:
        before = arch
        for key in options:
            arch = min([arch, *(space.valid({**arch, key: option}) for option in options[key])], key=rank)
    return arch


def _distance(family: Family, arch: Architecture, targets: Mapping[str, tuple[float, ...]]) -> float:
    squares = []
    quantities = family.quantities(arch)
    for name, logarithms in targets.items():
        parts = quantities.get(name, ())
        if len(parts) != len(logarithms):
            raise ScalingError(
                f"scales of {family.space.name!r} must give {len(logarithms)} of {name} as of the default, "
                f"but got {len(parts)}"
            )
        squares.append(
            fmean((math.log(part) - target) ** 2 for part, target in zip(parts, logarithms, strict=True))
        )
    # Rounded, so that sums equal but for float errors tie, and the number of changes decides.
    return round(math.fsum(squares), 12)


def _listed(key: str, domain: Options) -> list[Value]:
    """All options of a choice."""
    if math.isinf(size(domain)):
        raise ScalingError(f"scaling needs choices that can be listed, but {key} is {allowed(domain)}")
    return listed(domain)
