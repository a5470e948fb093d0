"""Ray Tune domains as options of a choice: validation, extremes, sizes and identity."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

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
    """Check that ``domain`` is a valid domain for the choice ``key``, and return it.

    Raises:
        SpaceError: for a key that is no string, a value that is no finite Tune domain, or options other
            than numbers and strings.
    """
    if not isinstance(key, str) or not key:
        raise SpaceError(f"a domain's key must be a string, but got {key!r}")
    if isinstance(domain, Categorical):
        wrong = [repr(c) for c in domain.categories if not isinstance(c, bool | int | float | str)]
        if wrong or not domain.categories:
            raise SpaceError(
                f"{key}: options must be numbers or strings, but got {', '.join(wrong) or 'none'}"
            )
        return domain
    if isinstance(domain, Integer | Float):
        if not all(map(math.isfinite, (domain.lower, domain.upper))):
            raise SpaceError(f"{key}: bounds must be finite, but got {domain.lower} to {domain.upper}")
        return domain
    raise SpaceError(
        f"{key} must be a Ray Tune domain such as tune.choice([...]) or tune.randint(a, b), but got {domain!r}"
    )


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
    """Validate ``value``, and return the domain's own equal option (3 and 3.0 are one option).

    Raises:
        ArchitectureError: when it is outside the domain.
    """
    option = _listed(domain, value) if isinstance(domain, Categorical) else _in_range(domain, value)
    if option is None:
        raise ArchitectureError(f"{key} must be {allowed(domain)}, but got {value!r}")
    return option


def _listed(domain: Categorical, value: object) -> Value | None:
    for option in domain.categories:
        if option == value and isinstance(option, bool) == isinstance(value, bool):
            return cast(Value, option)
    return None


def _in_range(domain: Integer | Float, value: Any) -> Value | None:
    if isinstance(value, bool | str):
        return None
    try:
        number = int(value) if isinstance(domain, Integer) else float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    lowest, highest = bounds(domain)
    step = step_of(domain)
    on_step = step is None or math.isclose(number / step, round(number / step), abs_tol=1e-9)
    return number if number == value and lowest <= number <= highest and on_step else None


def bounds(domain: Integer | Float) -> tuple[Any, Any]:
    """Lowest and highest value; the upper bound is exclusive for plain Integers, inclusive for quantized ones."""
    open_ended = isinstance(domain, Integer) and step_of(domain) is None
    return domain.lower, domain.upper - 1 if open_ended else domain.upper


def step_of(domain: Integer | Float) -> float | None:
    """Distance between the values of a quantized domain, None for others."""
    sampler = domain.get_sampler()  # type: ignore[no-untyped-call]
    return sampler.q if isinstance(sampler, Quantized) and sampler.q != 1 else None


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
    return math.inf if step is None else math.floor((highest - lowest) / step + 1e-9) + 1


def identity(domain: Options) -> list[Any]:
    """Identity of a domain, as JSON values."""
    if isinstance(domain, Categorical):
        return ["choice", *domain.categories]
    return [type(domain).__name__, type(domain.get_sampler()).__name__, *bounds(domain), step_of(domain)]  # type: ignore[no-untyped-call]
