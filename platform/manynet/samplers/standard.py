"""Optuna's samplers with defaults for parallel search under constraints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import optuna

if TYPE_CHECKING:
    from manynet.records.conditions import Objective


class _NSGAIISampler(optuna.samplers.NSGAIISampler):
    """NSGA-II that also breeds from trials whose parameters were given, not drawn.

    Optuna assigns a generation only when it draws parameters, so enqueued trials (the smallest and
    largest architecture, every record of a resumed search) would never be parents.
    """

    def after_trial(
        self,
        study: optuna.Study,
        trial: optuna.trial.FrozenTrial,
        state: optuna.trial.TrialState,
        values: Sequence[float] | None,
    ) -> None:
        super().after_trial(study, trial, state, values)
        self.get_trial_generation(study, trial)


def nsga2(
    seed: int,
    objectives: Sequence[Objective],
    population_size: int = 30,
    mutation_prob: float | None = None,
    crossover_prob: float = 0.9,
    swapping_prob: float = 0.5,
) -> optuna.samplers.BaseSampler:
    """NSGA-II: Deb et al., "A fast and elitist multiobjective genetic algorithm", 2002."""
    return _NSGAIISampler(
        seed=seed,
        population_size=population_size,
        mutation_prob=mutation_prob,
        crossover_prob=crossover_prob,
        swapping_prob=swapping_prob,
    )


def tpe(
    seed: int,
    objectives: Sequence[Objective],
    n_startup_trials: int = 20,
    n_ei_candidates: int = 24,
    multivariate: bool = True,
) -> optuna.samplers.BaseSampler:
    """Tree-structured Parzen estimator: Bergstra et al. 2011; several objectives: Ozaki et al. 2020."""
    # Proposals are made while others are pending: the constant liar makes them differ.
    return optuna.samplers.TPESampler(
        seed=seed,
        n_startup_trials=n_startup_trials,
        n_ei_candidates=n_ei_candidates,
        multivariate=multivariate,
        constant_liar=True,
    )


def random(seed: int, objectives: Sequence[Objective]) -> optuna.samplers.BaseSampler:
    """Independent uniform draws: the baseline any other sampler has to beat."""
    return optuna.samplers.RandomSampler(seed=seed)
