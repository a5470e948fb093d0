"""The contract of a sampler: what proposes the next architecture."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import TrialState
from ray import tune

from manynet.records.conditions import Objective
from manynet.samplers import loading
from manynet.samplers.regularised import LIVE
from manynet.search.distributions import complete, distributions
from manynet.search.searcher import DIRECTIONS
from manynet.space.domains import admitted, allowed
from manynet.testing.findings import Findings, isolated, scramble

Make = Callable[[int, Sequence[Objective]], optuna.samplers.BaseSampler]
ONE = (Objective("loss", False),)
TWO = (Objective("accuracy", True), Objective("macs", False))
DOMAINS: dict[str, Any] = {
    "operator": tune.choice(["conv", "attention", "none"]),
    "width": tune.choice([16, 32, 64]),
    "bias": tune.choice([True, False]),
    "fixed": tune.choice([7]),
    "depth": tune.randint(1, 9),
    "channels": tune.qrandint(8, 64, 8),
    "hidden": tune.lograndint(4, 512),
    "dropout": tune.uniform(0.0, 0.5),
    "ratio": tune.quniform(1.0, 4.0, 0.5),
    "rate": tune.loguniform(1e-4, 1e-1),
}
"""A domain of each kind."""
_PENDING = 8


def check_sampler(
    sampler: str | Make | Any, options: Mapping[str, Any] | None = None, trials: int = 50
) -> list[str]:
    """What is wrong with a sampler, asked and told as a search does it.

    Args:
        sampler: a name in ``manynet.samplers``, ``module:name``, or the function
            ``(seed, objectives, **options)`` itself.
        options: of the function, besides the first two.
        trials: that it is asked for at a time; more than its start-up needs.

    Returns:
        Sentences; none where the sampler keeps its contract.
    """
    findings, given = Findings(), dict(options or {})

    def make(seed: int, objectives: Sequence[Objective]) -> optuna.samplers.BaseSampler:
        if isinstance(sampler, str):
            return loading.load(sampler, given, seed, objectives)
        made: optuna.samplers.BaseSampler = sampler(seed, objectives, **given)
        return made

    with isolated(), _quiet():
        if not _is_made(make, findings):
            return findings.sentences
        for objectives in (ONE, TWO):
            _check_seeds(make, objectives, trials, findings)
        _check_pending(make, trials, findings)
        _check_failures(make, trials, findings)
        _check_constraints(make, trials, findings)
        _check_primed(make, trials, findings)
    return findings.sentences


def _is_made(make: Make, findings: Findings) -> bool:
    with findings.trying("a sampler must be made from a seed, objectives and its options"):
        first, second = make(0, TWO), make(0, TWO)
        if findings.expect(
            isinstance(first, optuna.samplers.BaseSampler),
            "a sampler must be one of Optuna's, or a subclass of optuna.samplers.BaseSampler",
            f"is {first!r:.80}",
        ):
            findings.expect(
                first is not second, "each search must get a sampler of its own", "the same object came twice"
            )
            return True
    return False


class Run:
    """A study whose proposals are checked as they come."""

    def __init__(
        self, make: Make, findings: Findings, objectives: Sequence[Objective] = TWO, seed: int = 0
    ) -> None:
        self.space: dict[str, BaseDistribution] = distributions(DOMAINS)
        self.objectives, self.findings = objectives, findings
        self.study = optuna.create_study(
            directions=[DIRECTIONS[one.maximise] for one in objectives], sampler=make(seed, objectives)
        )

    def ask(self) -> optuna.Trial:
        """The next proposal."""
        trial = self.study.ask(self.space)
        for key, value in trial.params.items():
            try:
                holds = admitted(key, DOMAINS[key], value) == value
            except ValueError:
                holds = False
            self.findings.expect(
                holds, "a proposal must be of the domains", f"{key} is {value!r}, not {allowed(DOMAINS[key])}"
            )
        missing = DOMAINS.keys() - trial.params.keys()
        self.findings.expect(
            not missing,
            "a proposal must have a value for every key",
            f"one lacks {', '.join(sorted(missing))}",
        )
        return trial

    def tell(self, trial: optuna.Trial, violation: float | None = None, cheap: bool = False) -> None:
        """Answer with values of its parameters, of which ``cheap`` knows the cost alone."""
        trial.set_user_attr(LIVE, list(trial.params))
        if violation is not None:
            trial.set_constraint("depth <= 4", violation)
        depth, width = trial.params["depth"], trial.params["width"]
        values = [-math.inf if cheap else depth - trial.params["dropout"], float(depth * width)]
        self.study.tell(trial, values if len(self.objectives) > 1 else values[1:])


def _check_seeds(make: Make, objectives: Sequence[Objective], trials: int, findings: Findings) -> None:
    def proposals(seed: int, others: int) -> list[dict[str, Any]]:
        scramble(others)
        run = Run(make, findings, objectives, seed)
        for _ in range(trials):
            run.tell(run.ask())
        return [trial.params for trial in run.study.trials]

    with findings.trying(f"a sampler must serve {len(objectives)} objectives for {trials} trials"):
        first, again, other = proposals(3, 1), proposals(3, 2), proposals(4, 1)
        findings.expect(
            first == again,
            "the same seed must give the same proposals, whatever the global generators are at",
            f"trial {_first_difference(first, again)} differs",
        )
        findings.expect(
            first != other, "another seed must give other proposals", f"all {trials} are the same"
        )
        distinct = {tuple(params.items()) for params in first}
        findings.expect(
            len(distinct) > trials // 5,
            "proposals must not all be the same",
            f"{trials} of them are {len(distinct)} different ones",
        )


def _first_difference(left: Sequence[object], right: Sequence[object]) -> int:
    return next((at for at, (a, b) in enumerate(zip(left, right, strict=True)) if a != b), -1)


def _check_pending(make: Make, trials: int, findings: Findings) -> None:
    with findings.trying(f"a sampler must go on while {_PENDING} trials are pending"):
        run = Run(make, findings)
        pending = [run.ask() for _ in range(_PENDING)]
        for _ in range(trials):
            pending.append(run.ask())
            run.tell(pending.pop(0))
        distinct = {tuple(trial.params.items()) for trial in pending}
        findings.expect(
            len(distinct) > 1,
            "trials that are pending together must differ",
            f"{_PENDING} of them are the same",
        )


def _check_failures(make: Make, trials: int, findings: Findings) -> None:
    with findings.trying("a sampler must go on after failed trials, the first ones among them"):
        run = Run(make, findings)
        for number in range(trials):
            trial = run.ask()
            if number < 5 or number % 2:
                run.study.tell(trial, state=TrialState.FAIL)
            else:
                run.tell(trial)


def _check_constraints(make: Make, trials: int, findings: Findings) -> None:
    with findings.trying("a sampler must go on under constraints, also where none is met"):
        for never in (False, True):
            run = Run(make, findings)
            for number in range(trials):
                trial = run.ask()
                violation = 1.0 if never else (trial.params["depth"] - 4) / 4
                # What costs too much is answered without an evaluation: the other values are infinitely bad.
                run.tell(trial, violation, cheap=violation > 0 and number % 2 == 0)


def _check_primed(make: Make, trials: int, findings: Findings) -> None:
    with findings.trying("a sampler must go on from the trials of a resumed search"):
        run = Run(make, findings)
        for seed in range(trials):
            run.study.enqueue_trial(given := complete({}, run.space, seed))
            trial = run.ask()
            findings.expect(
                all(trial.params[key] == value for key, value in given.items()),
                "parameters that are given must be kept",
                f"{given} became {trial.params}",
            )
            run.tell(trial)
        for _ in range(trials):
            run.tell(run.ask())


@contextmanager
def _quiet() -> Iterator[None]:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
