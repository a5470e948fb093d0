"""Checks the settings of a search before anything is trained for it."""

from __future__ import annotations

from collections.abc import Iterable

import optuna

from manynet.config.settings import SearchSettings
from manynet.errors import ManynetError
from manynet.learning.head_tuning import HEAD
from manynet.records.conditions import COST, LATENCY, Condition
from manynet.records.goals import Goals
from manynet.samplers import loading
from manynet.search import trackers
from manynet.space.search_space import SearchSpace


class SearchError(ManynetError, RuntimeError):
    """A search cannot start, or cannot go on."""


def check(space: SearchSpace, settings: SearchSettings, goals: Goals) -> optuna.samplers.BaseSampler:
    """Validate a search's settings before it starts, and return its sampler.

    Raises:
        SamplerError: the sampler is unknown, or does not take these options.
        SearchError: no subnet can meet a condition, or the last layer cannot be tuned.
        TrackerError: a tracker cannot be reached.
    """
    trackers.check(settings.trackers)
    check_reachable(space, goals.conditions)
    if settings.finetune_steps and HEAD not in space.parts:
        raise SearchError(
            f"search.finetune_steps needs a supernet whose last layer is named {HEAD}, "
            f"but that of {space.name!r} has ({', '.join(space.parts)})"
        )
    return loading.load(settings.sampler, settings.sampler_options, settings.seed, goals.objectives)


def check_reachable(space: SearchSpace, conditions: Iterable[Condition]) -> None:
    """Reject bounds that no subnet can meet.

    Raises:
        SearchError: for the first such bound.
    """
    for condition in conditions:
        column, bound = condition.column, condition.bound
        low, high = space.task.ranges.get(column, (bound, bound))
        if not low <= bound <= high:
            raise SearchError(f"a bound on {column} must be from {low:g} to {high:g}, but got '{condition}'")
        if column.startswith(LATENCY) and bound <= 0:
            raise SearchError(f"a bound on latency must be above 0 ms, but got '{condition}'")
        if column in COST:
            _check_cost(space, condition)


def _check_cost(space: SearchSpace, condition: Condition) -> None:
    least, most = (getattr(space.read(arch), condition.column) for arch in (space.smallest, space.largest))
    nearest = {"<": least, ">": most, "=": min(max(condition.bound, least), most)}
    if not condition.holds({condition.column: nearest[condition.operator[0]]}):
        raise SearchError(
            f"a bound on {condition.column} must be within the space's {least} to {most}, but got '{condition}'"
        )
