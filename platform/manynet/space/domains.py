"""Ray Tune domains as options of a choice: validation, extremes, sizes and identity.

A quantized range holds the multiples of its step between its bounds. This file alone says which these are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import copy
from decimal import Decimal
from typing import Any, cast

import numpy as np
from ray.tune.search.sample import Categorical, Float, Integer, Quantized

from manynet.errors import ManynetError

Value = bool | int | float | str
Options = Categorical | Integer | Float
"""The Tune domains that can be listed or bounded."""


class ArchitectureError(ManynetError, ValueError):
    """An architecture does not belong to its space."""


class SpaceError(ManynetError, ValueError):
    """The declaration of a space is invalid."""


def declared(key: object, domain: object) -> Options:
    """Check that ``domain`` is a valid domain for the choice ``key``, and return it with plain Python values.

    Options of which one is a string are sorted: those of a set have another order in every process.

    Raises:
        SpaceError: for a key that is no string, a value that is no finite Tune domain, options other than
            numbers and strings, or a range without a value.
    """
    if not isinstance(key, str) or not key:
        raise SpaceError(f"a domain's key must be a string, but got {key!r}")
    if isinstance(domain, Categorical):
        return _declared_options(key, domain)
    if isinstance(domain, Integer | Float):
        return _declared_range(key, domain)
    raise SpaceError(
        f"{key} must be a Ray Tune domain such as tune.choice([...]) or tune.randint(a, b), but got {domain!r:.80}"
    )


def plain(value: object) -> Any:
    """A NumPy scalar as the Python value it is; everything else as it is."""
    return value.item() if isinstance(value, np.generic) else value


def _declared_options(key: str, domain: Categorical) -> Categorical:
    options = [plain(option) for option in domain.categories]
    wrong = [option for option in options if not isinstance(option, bool | int | float | str)]
    wrong += [option for option in options if isinstance(option, float) and not math.isfinite(option)]
    if wrong or not options:
        got = ", ".join(f"{option!r:.80}" for option in wrong[:3]) or "none"
        raise SpaceError(f"{key}: options must be finite numbers or strings, but got {got}")
    if any(isinstance(option, str) for option in options):
        options.sort(key=lambda option: (isinstance(option, str), option))
    result = copy(domain)
    result.categories = options
    return result


def _declared_range(key: str, domain: Integer | Float) -> Integer | Float:
    if not all(map(math.isfinite, (domain.lower, domain.upper))):
        raise SpaceError(f"{key}: bounds must be finite, but got {domain.lower} to {domain.upper}")
    step = step_of(domain)
    if step is not None and not (step > 0 and (isinstance(domain, Float) or float(step).is_integer())):
        kind = "a whole number" if isinstance(domain, Integer) else "a number"
        raise SpaceError(f"{key}: the step must be {kind} above 0, but got {step!r}")
    lowest, highest = bounds(domain)
    if lowest > highest:
        raise SpaceError(f"{key} must have a value, but there is none from {domain.lower} to {domain.upper}")
    return domain


def soft_options(key: str, domains: Mapping[str, Options]) -> tuple[Value, ...]:
    """Options of a choice that may stay undecided.

    Raises:
        SpaceError: when ``key`` is no ``tune.choice`` domain of the space.
    """
    domain = domains.get(key)
    if not isinstance(domain, Categorical):
        raise SpaceError(f"soft keys must be tune.choice domains of the space, but got {key!r}")
    return tuple(domain.categories)


def admitted(key: str, domain: Options, value: object) -> Value:
    """Validate ``value``, and return the domain's own equal option: 3 for 3.0, 0.6 for 6 * 0.1.

    Raises:
        ArchitectureError: when it is outside the domain.
    """
    value = plain(value)
    option = _listed(domain, value) if isinstance(domain, Categorical) else _in_range(domain, value)
    if option is None:
        raise ArchitectureError(f"{key} must be {allowed(domain)}, but got {value!r:.80}")
    return option


def _listed(domain: Categorical, value: object) -> Value | None:
    for option in domain.categories:
        if option == value and isinstance(option, bool) == isinstance(value, bool):
            return cast(Value, option)
    return None


def _in_range(domain: Integer | Float, value: Any) -> Value | None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        return None
    step = step_of(domain)
    if step is not None:
        value = _nearest_multiple(value, step)
    elif isinstance(domain, Integer):
        value = int(value) if value == int(value) else None
    lowest, highest = bounds(domain)
    if value is None or not lowest <= value <= highest:
        return None
    return value if isinstance(domain, Integer) else float(value)


def _nearest_multiple(value: float, step: float) -> float | None:
    """The multiple of ``step`` that ``value`` is, but for float errors."""
    count = round(value / step)
    return multiple(count, step) if math.isclose(value / step, count, rel_tol=1e-9, abs_tol=1e-9) else None


def multiple(count: int, step: float) -> float:
    """``count * step`` as one would write it: 3 steps of 0.1 are 0.3, not 0.30000000000000004."""
    return count * step if isinstance(step, int) else float(count * Decimal(repr(step)))


def bounds(domain: Integer | Float) -> tuple[Any, Any]:
    """Lowest and highest value; Tune excludes the upper bound of whole numbers without a step above 1."""
    step = step_of(domain)
    if step is not None:
        lowest = math.ceil(round(domain.lower / step, 9))
        highest = math.floor(round(domain.upper / step, 9))
        return multiple(lowest, step), multiple(highest, step)
    if isinstance(domain, Integer):
        return math.ceil(domain.lower), math.ceil(domain.upper) - 1
    return float(domain.lower), float(domain.upper)


def step_of(domain: Integer | Float) -> float | None:
    """Distance between the values of a quantized domain; None for others, and for consecutive whole numbers."""
    sampler = domain.get_sampler()  # type: ignore[no-untyped-call]
    if not isinstance(sampler, Quantized) or isinstance(domain, Integer) and sampler.q == 1:
        return None
    step = plain(sampler.q)
    return int(step) if isinstance(domain, Integer) and step == int(step) else float(step)


def listed(domain: Options) -> list[Value]:
    """All options, those of a range in ascending order.

    Raises:
        ValueError: for real numbers without a step, which cannot be listed.
    """
    if isinstance(domain, Categorical):
        return list(domain.categories)
    step = step_of(domain) or (1 if isinstance(domain, Integer) else None)
    if step is None:
        raise ValueError(f"options must be countable, but got {allowed(domain)}")
    lowest, highest = bounds(domain)
    return [multiple(count, step) for count in range(round(lowest / step), round(highest / step) + 1)]


def allowed(domain: Options) -> str:
    """Description of the options, for messages."""
    if isinstance(domain, Categorical):
        return f"one of ({', '.join(map(str, domain.categories))})"
    kind = "an integer" if isinstance(domain, Integer) else "a number"
    lowest, highest = bounds(domain)
    step = f" in steps of {step_of(domain)}" if step_of(domain) else ""
    return f"{kind} from {lowest} to {highest}{step}"


def extremes(domain: Options) -> list[Value]:
    """Options to try for the largest and smallest subnets: all of a choice, the ends of a range."""
    if isinstance(domain, Integer | Float):
        return list(reversed(bounds(domain)))
    numbers = all(isinstance(option, int | float) for option in domain.categories)
    return sorted(domain.categories, reverse=True) if numbers else list(domain.categories)


def size(domain: Options) -> float:
    """Number of options; infinite for real numbers without a step."""
    if isinstance(domain, Categorical):
        return len(domain.categories)
    step = step_of(domain) or (1 if isinstance(domain, Integer) else None)
    lowest, highest = bounds(domain)
    return math.inf if step is None else round((highest - lowest) / step) + 1


def combinations(domains: Mapping[str, Options]) -> str:
    """How many combinations of options there are, for messages: ``2.1e+08 combinations``, also beyond all floats."""
    count = math.prod(map(size, domains.values()))
    if isinstance(count, int) and count > 10**300:
        return f"10^{math.log10(count):.0f} combinations"
    return "infinitely many combinations" if math.isinf(count) else f"{count:.3g} combinations"


def identity(domain: Options) -> list[Any]:
    """Identity of a domain, as JSON values."""
    if isinstance(domain, Categorical):
        return ["choice", *domain.categories]
    return [type(domain).__name__, type(domain.get_sampler()).__name__, *bounds(domain), step_of(domain)]  # type: ignore[no-untyped-call]
