"""Creates samplers from names and options."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import optuna

from manynet import references, samplers
from manynet.errors import ManynetError
from manynet.records.conditions import Objective


class SamplerError(ManynetError, ValueError):
    """A sampler is unknown, or does not take the options."""


def load(
    name: str, options: Mapping[str, Any], seed: int, objectives: Sequence[Objective]
) -> optuna.samplers.BaseSampler:
    """Create a sampler.

    Args:
        name: one of ``manynet.samplers.__all__``, or ``module:name`` of a function
            ``(seed, objectives, **options)`` that returns an Optuna sampler.
        options: further arguments of the function.
        seed: of the sampler's draws.
        objectives: of the search.

    Raises:
        SamplerError: the name is unknown, or the sampler does not take the options.
        UnknownNameError: ``module:name`` does not exist.
    """
    make = _named(name)
    parameters = list(inspect.signature(make).parameters.values())[2:]
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    unknown = [option for option in options if option not in {parameter.name for parameter in parameters}]
    if unknown and not open_ended:
        names = ", ".join(parameter.name for parameter in parameters) or "none"
        raise SamplerError(f"options of sampler {name!r} must be among ({names}), but got {unknown[0]!r}")
    try:
        return make(seed, objectives, **options)  # type: ignore[no-any-return]
    except (TypeError, ValueError) as error:
        raise SamplerError(f"options of sampler {name!r} are wrong: {error}") from error


def _named(name: str) -> Any:
    if ":" in name:
        return references.load(name)
    if name not in samplers.__all__:
        known = ", ".join(sorted(samplers.__all__))
        raise SamplerError(f"sampler must be one of ({known}) or module:name, but got {name!r}")
    return getattr(samplers, name)
