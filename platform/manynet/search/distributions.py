"""Converts Ray Tune domains to Optuna distributions with the same keys and values."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from ray.tune.search.sample import Categorical, Domain, Float, Integer, LogUniform, Quantized, Uniform

from manynet.errors import ManynetError
from manynet.space.domains import bounds, step_of


class DomainError(ManynetError, TypeError):
    """A search space holds a domain that no sampler can rng from."""


def distributions(domains: Mapping[str, Domain]) -> dict[str, BaseDistribution]:
    """The Optuna distribution of each domain.

    Raises:
        DomainError: a domain is unbounded, or neither categorical, integer nor float.
    """
    return {key: _distribution(key, domain) for key, domain in domains.items()}


def complete(
    arch: Mapping[str, Any], domains: Mapping[str, BaseDistribution], seed: int | str
) -> dict[str, Any]:
    """Fill up a canonical architecture, which lacks inactive keys, to all parameters of a trial.

    Samplers learn only parameters that every trial has. Missing ones are drawn at random: a fixed
    value would look like a preference.
    """
    rng = random.Random(seed)
    return {key: arch[key] if key in arch else _sample(domain, rng) for key, domain in domains.items()}


def _distribution(key: str, domain: Domain) -> BaseDistribution:
    if isinstance(domain, Categorical):
        return CategoricalDistribution(domain.categories)
    sampler = domain.get_sampler()
    if isinstance(sampler, Quantized):
        sampler = sampler.sampler
    if isinstance(domain, Integer | Float) and isinstance(sampler, Uniform | LogUniform):
        step = step_of(domain)
        # Optuna has no grid on a log scale. The grid decides which values are valid, so it is kept.
        log = isinstance(sampler, LogUniform) and step is None
        low, high = bounds(domain)
        if isinstance(domain, Float):
            return FloatDistribution(low, high, log=log, step=step)
        return IntDistribution(low, high, log=log, step=int(step or 1))
    raise DomainError(
        f"domain of {key!r} must be choice, randint, qrandint, lograndint, uniform, quniform or "
        f"loguniform, but got {type(domain).__name__} with {type(sampler).__name__} sampling"
    )


def _sample(domain: BaseDistribution, rng: random.Random) -> Any:
    if isinstance(domain, CategoricalDistribution):
        return rng.choice(domain.choices)
    if isinstance(domain, IntDistribution):
        return rng.randrange(domain.low, domain.high + 1, domain.step)
    assert isinstance(domain, FloatDistribution)
    if domain.step is None:
        return rng.uniform(domain.low, domain.high)
    return domain.low + domain.step * rng.randint(0, round((domain.high - domain.low) / domain.step))
