"""Regularised (aging) evolution: tournament selection among the youngest trials, and one mutation.

Real et al., "Regularized Evolution for Image Classifier Architecture Search", AAAI 2019.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

if TYPE_CHECKING:
    from manynet.records.conditions import Objective

LIVE = "live"
"""User attribute of a trial: names of the parameters that its architecture reads."""

_REDRAWS = 16


class RegularisedEvolution(optuna.samplers.BaseSampler):
    """Aging evolution over the last ``population_size`` completed trials.

    A parent wins a tournament of ``sample_size`` trials drawn from that population: feasible before
    infeasible, then smaller violations first, then a random non-dominated trial. The child changes one
    parameter; if the trial's user attribute ``"live"`` names the active parameters, it is one of those.

    Args:
        seed: of every draw.
        population_size: completed trials that can be parents; until then, draws are random.
        sample_size: trials in a tournament.
    """

    def __init__(self, seed: int | None = None, population_size: int = 50, sample_size: int = 10) -> None:
        if not 1 <= sample_size <= population_size:
            raise ValueError(
                f"sample_size must be from 1 to population_size ({population_size}), but got {sample_size}"
            )
        self._population_size = population_size
        self._sample_size = sample_size
        self._rng = np.random.default_rng(seed)
        self._random = optuna.samplers.RandomSampler(seed=seed)
        self._search_space = optuna.search_space.IntersectionSearchSpace()

    def reseed_rng(self) -> None:
        self._rng = np.random.default_rng()
        self._random.reseed_rng()

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        space = self._search_space.calculate(study)
        return {name: domain for name, domain in space.items() if not domain.single()}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        completed = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if len(completed) < self._population_size or not search_space:
            return {}
        parent = self._parent(completed[-self._population_size :], study.directions)
        child = {name: parent.params[name] for name in search_space}
        live = sorted(set(parent.user_attrs.get(LIVE, search_space)) & set(search_space))
        name = str(self._rng.choice(live or sorted(search_space)))
        child[name] = self._mutated(study, trial, name, search_space[name], child[name])
        return child

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        return self._random.sample_independent(study, trial, param_name, param_distribution)

    def _parent(
        self, population: Sequence[FrozenTrial], directions: Sequence[optuna.study.StudyDirection]
    ) -> FrozenTrial:
        drawn = self._rng.choice(len(population), self._sample_size, replace=False)
        winners = _winners([population[index] for index in drawn], directions)
        return winners[int(self._rng.integers(len(winners)))]

    def _mutated(
        self, study: optuna.Study, trial: FrozenTrial, name: str, domain: BaseDistribution, old: Any
    ) -> Any:
        for _ in range(_REDRAWS):
            value = self._random.sample_independent(study, trial, name, domain)
            if value != old:
                break
        return value


def _winners(
    trials: Sequence[FrozenTrial], directions: Sequence[optuna.study.StudyDirection]
) -> list[FrozenTrial]:
    """The non-dominated trials among those of least constraint violation."""
    violations = [sum(max(0.0, value) for value in trial.constraints.values()) for trial in trials]
    least = min(violations)
    best = [trial for trial, violation in zip(trials, violations, strict=True) if violation == least]
    signs = np.array([-1.0 if d == optuna.study.StudyDirection.MAXIMIZE else 1.0 for d in directions])
    losses = np.array([trial.values for trial in best]) * signs
    no_worse = (losses[:, None] <= losses[None]).all(axis=2)
    better = (losses[:, None] < losses[None]).any(axis=2)
    dominated = (no_worse & better).any(axis=0)
    return [trial for trial, beaten in zip(best, dominated, strict=True) if not beaten]


def evolution(
    seed: int, objectives: Sequence[Objective], population_size: int = 50, sample_size: int = 10
) -> optuna.samplers.BaseSampler:
    """Regularised (aging) evolution: Real et al. 2019."""
    return RegularisedEvolution(seed, population_size, sample_size)
