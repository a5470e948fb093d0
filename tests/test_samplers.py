"""One contract for every sampler, as Optuna tests its own."""

import math
import statistics
from collections.abc import Callable
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from ray import tune

from manynet import samplers
from manynet.records.conditions import Objective
from manynet.samplers.loading import SamplerError, load
from manynet.samplers.regularised import LIVE, RegularisedEvolution
from manynet.search.distributions import complete, distributions
from manynet.space.domains import admitted

optuna.logging.set_verbosity(optuna.logging.WARNING)

NAMES = sorted(samplers.__all__)
GUIDED = [name for name in NAMES if name != "random"]
SMALL = {"evolution": {"population_size": 8, "sample_size": 4}, "nsga2": {"population_size": 6}}
ONE = [Objective("loss", False)]
TWO = [Objective("accuracy", True), Objective("macs", False)]
DOMAINS = {
    "operator": tune.choice(["conv", "attention", "none"]),
    "width": tune.choice([16, 32, 64]),
    "scale": tune.choice([0.5, 1.0]),
    "bias": tune.choice([True, False]),
    "fixed": tune.choice([7]),
    "depth": tune.randint(1, 9),
    "channels": tune.qrandint(8, 64, 8),
    "hidden": tune.lograndint(4, 512),
    "dropout": tune.uniform(0.0, 0.5),
    "ratio": tune.quniform(1.0, 4.0, 0.5),
    "rate": tune.loguniform(1e-4, 1e-1),
}
SPACE = distributions(DOMAINS)


def study(name: str, objectives: list[Objective] = TWO, seed: int = 0) -> optuna.Study:
    sampler = load(name, SMALL.get(name, {}), seed, objectives)
    return optuna.create_study(
        directions=["maximize" if o.maximise else "minimize" for o in objectives], sampler=sampler
    )


def score(params: dict[str, Any]) -> list[float]:
    return [params["depth"] - params["dropout"], params["width"] * params["depth"]]


@pytest.mark.parametrize("name", NAMES)
def test_proposes_values_of_the_domains(name: str) -> None:
    search = study(name)
    for _ in range(30):
        trial = search.ask(SPACE)
        assert trial.params.keys() == DOMAINS.keys()
        for key, value in trial.params.items():
            option = admitted(key, DOMAINS[key], value)
            assert option == value and type(option) is type(value)
        search.tell(trial, score(trial.params))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("objectives", [ONE, TWO], ids=["one", "two"])
def test_same_seed_same_proposals(name: str, objectives: list[Objective]) -> None:
    def proposals(seed: int) -> list[dict[str, Any]]:
        search = study(name, objectives, seed)
        for _ in range(25):
            trial = search.ask(SPACE)
            search.tell(trial, score(trial.params)[: len(objectives)])
        return [trial.params for trial in search.trials]

    assert proposals(3) == proposals(3)
    assert proposals(3) != proposals(4)


@pytest.mark.parametrize("name", NAMES)
def test_goes_on_while_trials_are_pending(name: str) -> None:
    search = study(name)
    pending = [search.ask(SPACE) for _ in range(4)]
    for _ in range(30):
        pending.append(search.ask(SPACE))
        done = pending.pop(0)
        search.tell(done, score(done.params))
    assert len({tuple(trial.params.values()) for trial in pending}) == len(pending)


@pytest.mark.parametrize("name", NAMES)
def test_goes_on_after_failed_trials(name: str) -> None:
    search = study(name)
    for index in range(40):
        trial = search.ask(SPACE)
        if index % 2:
            search.tell(trial, score(trial.params))
        else:
            search.tell(trial, state=TrialState.FAIL)
    assert len(search.get_trials(states=(TrialState.COMPLETE,))) == 20


@pytest.mark.parametrize("name", NAMES)
def test_breeds_from_given_parameters(name: str) -> None:
    """Records of a resumed search come in as given parameters; they must not be lost on the sampler."""
    search = study(name)
    for seed in range(20):
        search.enqueue_trial(complete({}, SPACE, seed))
        trial = search.ask(SPACE)
        search.tell(trial, score(trial.params))
    given = [trial.params["rate"] for trial in search.trials]
    children = [search.ask(SPACE).params["rate"] for _ in range(10)]
    inherited = sum(any(math.isclose(rate, parent) for parent in given) for rate in children)
    assert inherited >= 5 if name in ("evolution", "nsga2") else inherited == 0


def infeasible_share(name: str, cheap: bool) -> float:
    """Share of the last 40 of 120 proposals that break ``depth <= 2`` (a quarter of draws meet it)."""
    search = study(name, seed=1)
    broken = []
    for _ in range(120):
        trial = search.ask(SPACE)
        violation = (trial.params["depth"] - 2) / 2
        trial.set_constraint("depth", violation)
        values = score(trial.params)
        # What is told of an architecture that was not evaluated: only its cost is known.
        search.tell(trial, [-math.inf, values[1]] if cheap and violation > 0 else values)
        broken.append(violation > 0)
    return statistics.fmean(broken[-40:])


@pytest.mark.parametrize("cheap", [False, True], ids=["evaluated", "not evaluated"])
@pytest.mark.parametrize("name", GUIDED)
def test_learns_constraints(name: str, cheap: bool) -> None:
    assert infeasible_share(name, cheap) < 0.6 < infeasible_share("random", cheap)


def best_of(name: str, seed: int) -> float:
    domains: dict[str, Any] = {f"x{i}": tune.uniform(-1.0, 1.0) for i in range(4)}
    domains |= {f"n{i}": tune.randint(-5, 6) for i in range(3)}
    domains |= {f"c{i}": tune.choice([-1.0, -0.3, 0.3, 1.0]) for i in range(3)}
    space = distributions(domains)
    options = {"evolution": {"population_size": 20, "sample_size": 6}, "nsga2": {"population_size": 20}}
    sampler = load(name, options.get(name, {}), seed, ONE)
    search = optuna.create_study(sampler=sampler)
    for _ in range(150):
        trial = search.ask(space)
        scale = {"x": 1.0, "n": 5.0, "c": 1.0}
        search.tell(trial, sum((value / scale[key[0]] - 0.3) ** 2 for key, value in trial.params.items()))
    return search.best_value


@pytest.mark.parametrize("name", GUIDED)
def test_beats_random_search(name: str) -> None:
    seeds = range(3)
    random = [best_of("random", seed) for seed in seeds]
    guided = [best_of(name, seed) for seed in seeds]
    assert statistics.fmean(guided) < 0.7 * statistics.fmean(random)


def evolved(build: Callable[[RegularisedEvolution], optuna.Study]) -> list[dict[str, Any]]:
    search = build(RegularisedEvolution(0, population_size=4, sample_size=4))
    return [search.ask(SPACE).params for _ in range(30)]


def primed(sampler: RegularisedEvolution, losses: list[float], live: list[str] | None = None) -> optuna.Study:
    search = optuna.create_study(sampler=sampler)
    for seed, loss in enumerate(losses):
        search.enqueue_trial(complete({}, SPACE, seed))
        trial = search.ask(SPACE)
        if live:
            trial.set_user_attr(LIVE, live)
        search.tell(trial, loss)
    return search


def changed(child: dict[str, Any], parent: dict[str, Any]) -> list[str]:
    return [key for key in child if child[key] != parent[key]]


def test_evolution_mutates_one_parameter_of_the_youngest_best() -> None:
    # The very best came first: it has died of age.
    children = evolved(lambda sampler: primed(sampler, [0.0, 5.0, 2.0, 3.0, 4.0]))
    parent = complete({}, SPACE, 2)
    assert all(len(changed(child, parent)) == 1 for child in children)
    assert len({changed(child, parent)[0] for child in children}) > 5


def test_evolution_mutates_what_matters() -> None:
    children = evolved(
        lambda sampler: primed(sampler, [1.0, 2.0, 3.0, 4.0], live=["depth", "width", "fixed"])
    )
    parent = complete({}, SPACE, 0)
    assert {changed(child, parent)[0] for child in children} == {"depth", "width"}


def test_evolution_prefers_the_feasible_then_the_less_infeasible() -> None:
    def build(sampler: RegularisedEvolution, violations: list[float]) -> optuna.Study:
        search = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
        for seed, violation in enumerate(violations):
            search.enqueue_trial(complete({}, SPACE, seed))
            trial = search.ask(SPACE)
            trial.set_constraint("any", violation)
            search.tell(trial, [violation, -violation])
        return search

    for violations, winner in [([3.0, 2.0, -1.0, 1.0], 2), ([3.0, 2.0, 5.0, 1.0], 3)]:
        parent = complete({}, SPACE, winner)
        for child in evolved(lambda sampler, v=violations: build(sampler, v)):  # type: ignore[misc]
            assert len(changed(child, parent)) == 1


def test_what_is_no_sampler_is_refused_in_one_line() -> None:
    with pytest.raises(SamplerError) as error:
        load("foo", {}, 0, ONE)
    known = "(evolution, nsga2, random, tpe)"
    assert str(error.value) == f"sampler must be one of {known} or module:name, but got 'foo'"
    # A name in the package that is not a sampler is none either.
    with pytest.raises(SamplerError, match="must be one of"):
        load("loading", {}, 0, ONE)


def test_wrong_options_are_refused_in_one_line() -> None:
    with pytest.raises(SamplerError, match=r"must be among \(population_size, sample_size\), but got 'size'"):
        load("evolution", {"size": 3}, 0, ONE)
    with pytest.raises(SamplerError, match="sample_size must be from 1 to population_size"):
        load("evolution", {"population_size": 3, "sample_size": 4}, 0, ONE)
    with pytest.raises(SamplerError, match="options of sampler 'nsga2' are wrong: .*population_size"):
        load("nsga2", {"population_size": 1}, 0, ONE)


def test_a_sampler_may_live_in_any_module() -> None:
    sampler = load("manynet.samplers.standard:tpe", {"n_startup_trials": 3}, 0, ONE)
    assert isinstance(sampler, optuna.samplers.TPESampler)
