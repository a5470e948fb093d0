"""Creates samplers from names and options."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import optuna

from manynet import references, samplers
from manynet.errors import ManynetError, typed_line
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
        SamplerError: the name is unknown, or what it names does not take the options or gives no sampler.
        UnknownNameError: ``module:name`` does not exist, or its module fails.
    """
    make = _named(name)
    parameters = list(inspect.signature(make).parameters.values())[2:]
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    unknown = [option for option in options if option not in {parameter.name for parameter in parameters}]
    if unknown and not open_ended:
        names = ", ".join(parameter.name for parameter in parameters) or "none"
        raise SamplerError(f"options of sampler {name!r} must be among ({names}), but got {unknown[0]!r}")
    try:
        made = make(seed, objectives, **options)
    except ManynetError:
        raise
    except (TypeError, ValueError) as error:
        raise SamplerError(f"options of sampler {name!r} are wrong: {error}") from error
    except Exception as error:  # a sampler of the user's own may fail in any way
        raise SamplerError(f"sampler {name!r} could not be made: {typed_line(error)}") from error
    if not isinstance(made, optuna.samplers.BaseSampler):
        raise SamplerError(f"sampler {name!r} must give a sampler of Optuna's, but gave {made!r:.80}")
    return made


def _named(name: str) -> Any:
    if ":" in name:
        found = references.load(name)
        if not callable(found):
            rule = "must name a function (seed, objectives, **options) that gives a sampler"
            raise SamplerError(f"sampler {name!r} {rule}, but names {found!r:.80}")
        return found
    if name not in samplers.__all__:
        known = ", ".join(sorted(samplers.__all__))
        raise SamplerError(f"sampler must be one of ({known}) or module:name, but got {name!r}")
    return getattr(samplers, name)
