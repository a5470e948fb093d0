"""Ray Tune's Searcher over Optuna's ask and tell: only new, affordable architectures become trials."""

from __future__ import annotations

import logging
import math
import random
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.study import StudyDirection
from optuna.trial import TrialState
from ray.tune.search import Searcher

from manynet.records.conditions import COST, Condition, Objective
from manynet.records.ledger import Record
from manynet.samplers.regularised import LIVE
from manynet.search.distributions import complete, distributions
from manynet.search.evaluator import Provenance
from manynet.search.outcome import Failure, from_result
from manynet.space.search_space import SearchSpace

logger = logging.getLogger(__name__)

DIRECTIONS = {True: StudyDirection.MAXIMIZE, False: StudyDirection.MINIMIZE}
ASKS = 8
"""Proposals in a row that may be known or too costly. Samplers that converge repeat themselves, and each
proposal takes longer the more trials there are."""
STEPS = 16
"""Random steps from the last such proposal that may be known or too costly."""
DRAWS = 512
"""Random architectures that may be known or too costly before the space counts as exhausted."""
FIRST = 5
"""Evaluations that may fail before any succeeds."""


class Phase(Enum):
    """Where a search is."""

    PROPOSING = "candidates become trials"
    WAITING = "no more candidates until pending ones are done"
    PAUSED = "the Tune run has had its share of candidates; another run continues"
    COMPLETE = "as many architectures are evaluated as were asked for"
    EXHAUSTED = "nothing new and affordable was found, however often it was tried"
    HOPELESS = "so many evaluations failed, or one for such a reason, that more would too"


@dataclass(frozen=True)
class Candidate:
    """An architecture being evaluated, and the Optuna trial that waits for it."""

    trial: optuna.Trial
    key: str
    arch: dict[str, Any]


class ArchitectureSearcher(Searcher):
    """Proposes architectures that have not been evaluated, and reports their results to Optuna.

    A proposal that is known already is answered from what is known, one that breaks a bound on its cost
    is answered as infeasible: neither takes a trial. Ray's own ``OptunaSearch`` can do neither, reads
    constraints before values exist, and leaves a trial with a NaN running for ever.

    Args:
        space: what is searched.
        objectives: ledger columns and their directions.
        conditions: bounds on ledger columns; those on ``macs`` and ``parameters`` before evaluation.
        sampler: the Optuna sampler that proposes.
        provenance: gives architectures their keys.
        evaluations: distinct architectures to reach, ``records`` included.
        seed: of the random draws used when the sampler proposes nothing new.
        records: earlier evaluations under the same provenance.
        first: architectures to evaluate before any other.
    """

    def __init__(
        self,
        space: SearchSpace,
        objectives: Sequence[Objective],
        conditions: Sequence[Condition],
        sampler: optuna.samplers.BaseSampler,
        provenance: Provenance,
        evaluations: int,
        seed: int,
        records: Sequence[Record] = (),
        first: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        super().__init__()
        self.evaluations = evaluations
        self.failures: list[Failure] = []
        self.too_dear = 0
        self.done: dict[str, dict[str, float]] = {}
        self._space, self._objectives, self._conditions = space, objectives, conditions
        self._on_cost = [condition for condition in conditions if condition.column in COST]
        self._provenance = provenance
        self._draw = random.Random(seed)
        self._pending: dict[str, Candidate] = {}
        self._failed: set[str] = set()
        self._share: float = math.inf
        self._dry = False
        self._distributions = distributions(space.domains)
        self._study = optuna.create_study(
            directions=[DIRECTIONS[o.maximise] for o in objectives], sampler=sampler
        )
        for record in records:
            self._replay(record)
        self._earlier = len(self.done)
        self._first = deque([*first, space.largest, space.smallest])

    def share(self, candidates: int) -> None:
        """Limit the Tune run that begins to so many candidates; another run can continue."""
        self._share = candidates

    @property
    def phase(self) -> Phase:
        """Where the search is now."""
        if self._is_hopeless():
            phase = Phase.HOPELESS
        elif len(self.done) + len(self._pending) >= self.evaluations:
            phase = Phase.COMPLETE
        elif self._dry:
            phase = Phase.EXHAUSTED
        else:
            phase = Phase.PROPOSING if self._share else Phase.PAUSED
        return Phase.WAITING if self._pending and phase is not Phase.PROPOSING else phase

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        """The next architecture; None to be asked again later; ``FINISHED`` when the search or the share is over."""
        candidate = self._next() if self.phase is Phase.PROPOSING else None
        if candidate is not None:
            self._share -= 1
            self._pending[trial_id] = candidate
            return dict(candidate.arch)
        return None if self._pending else str(Searcher.FINISHED)

    def on_trial_complete(
        self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False
    ) -> None:
        """Report a candidate's values, or its failure, to Optuna."""
        candidate = self._pending.pop(trial_id)
        # A sampler may find something new, now that it knows more.
        self._dry = False
        outcome = self._outcome(result, error)
        if isinstance(outcome, Failure):
            self.failures.append(outcome)
            self._failed.add(candidate.key)
            logger.warning("candidate %s failed: %s", candidate.arch, outcome.reason)
            self._study.tell(candidate.trial, state=TrialState.FAIL)
        else:
            self.done[candidate.key] = outcome
            self._tell(candidate.trial, outcome)

    def __getstate__(self) -> dict[str, Any]:
        # A Tuner pickles its searcher so that it can be restored. This one resumes from the ledger.
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing is kept in Tune's checkpoints either."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """Nothing was kept: see ``save``."""

    def _is_hopeless(self) -> bool:
        succeeded = len(self.done) - self._earlier
        most = max(FIRST, self.evaluations) if succeeded else FIRST
        return len(self.failures) >= most or any(failure.hopeless for failure in self.failures)

    def _next(self) -> Candidate | None:
        while self._first:
            arch = self._first.popleft()
            if self._fresh(arch):
                return self._considered(self._ask_for(arch))
        for _ in range(ASKS):
            trial = self._study.ask(self._distributions)
            candidate = self._considered(trial)
            if candidate is not None:
                return candidate
        for params in chain(self._walk(trial.params), self._random()):
            if self._fresh(self._space.canonical(params)):
                return self._considered(self._ask_for(params))
        self._dry = True
        return None

    def _walk(self, params: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Architectures ever further from ``params``, by one parameter drawn anew each."""
        for _ in range(STEPS):
            redrawn = self._draw.choice(list(params))
            kept = {key: value for key, value in params.items() if key != redrawn}
            params = complete(kept, self._distributions, self._draw.getrandbits(32))
            yield params

    def _random(self) -> Iterator[dict[str, Any]]:
        """Architectures of the space's own prior."""
        for _ in range(DRAWS):
            draw = self._space.draw(np.random.default_rng(self._draw.getrandbits(32)))
            yield complete(draw, self._distributions, self._draw.getrandbits(32))

    def _considered(self, trial: optuna.Trial) -> Candidate | None:
        """The candidate of a proposal, or None when it is answered without an evaluation."""
        arch = self._space.canonical(trial.params)
        key = self._provenance.key(arch)
        trial.set_user_attr(LIVE, list(arch))
        if key in self.done:
            self._tell(trial, self.done[key])
        elif key in self._failed or self._is_pending(key):
            self._study.tell(trial, state=TrialState.FAIL)
        elif self._too_dear(arch):
            self.too_dear += 1
            self._tell_too_dear(trial, arch)
        else:
            return Candidate(trial, key, arch)
        return None

    def _fresh(self, arch: Mapping[str, Any]) -> bool:
        key = self._provenance.key(arch)
        known = key in self.done or key in self._failed or self._is_pending(key)
        return not known and not self._too_dear(arch)

    def _is_pending(self, key: str) -> bool:
        return any(candidate.key == key for candidate in self._pending.values())

    def _ask_for(self, arch: Mapping[str, Any]) -> optuna.Trial:
        self._study.enqueue_trial(complete(arch, self._distributions, self._provenance.key(arch)))
        return self._study.ask(self._distributions)

    def _replay(self, record: Record) -> None:
        # Asked and told, not added: samplers keep notes on the trials they were asked for.
        trial = self._ask_for(record.architecture)
        trial.set_user_attr(LIVE, list(record.architecture))
        metrics = self._metrics(record.metrics)
        self.done[record.key] = metrics
        self._tell(trial, metrics)

    def _tell(self, trial: optuna.Trial, metrics: Mapping[str, float]) -> None:
        for condition in self._conditions:
            trial.set_constraint(str(condition), condition.violation(metrics))
        self._study.tell(trial, [metrics[objective.column] for objective in self._objectives])

    def _tell_too_dear(self, trial: optuna.Trial, arch: Mapping[str, Any]) -> None:
        cost = self._cost(arch)
        for condition in self._on_cost:
            trial.set_constraint(str(condition), condition.violation(cost))
        worst = [-math.inf if objective.maximise else math.inf for objective in self._objectives]
        values = [cost.get(o.column, w) for o, w in zip(self._objectives, worst, strict=True)]
        self._study.tell(trial, values)

    def _too_dear(self, arch: Mapping[str, Any]) -> bool:
        return bool(self._on_cost) and not all(c.holds(self._cost(arch)) for c in self._on_cost)

    def _cost(self, arch: Mapping[str, Any]) -> dict[str, float]:
        reading = self._space.read(arch)
        return {"macs": reading.macs, "parameters": reading.parameters}

    def _outcome(self, result: Mapping[str, Any] | None, died: bool) -> dict[str, float] | Failure:
        outcome = from_result(result, died)
        if isinstance(outcome, Failure):
            return outcome
        metrics = self._metrics(outcome)
        wrong = [column for column, value in metrics.items() if not math.isfinite(value)]
        if wrong:
            return Failure(f"{wrong[0]} must be a finite number, but got {metrics[wrong[0]]}")
        return metrics

    def _metrics(self, given: Mapping[str, float]) -> dict[str, float]:
        columns = {o.column for o in self._objectives} | {c.column for c in self._conditions}
        return {column: float(given.get(column, math.nan)) for column in sorted(columns)}
