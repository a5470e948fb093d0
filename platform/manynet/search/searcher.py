"""Ray Tune searcher over Optuna's ask-and-tell interface.

Only architectures that are new and within the bounds on cost become trials.
"""

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
"""Rejected proposals (known, or too costly) in a row before random steps. Converging samplers repeat
themselves, and each proposal takes longer the more trials there are."""
STEPS = 16
"""Rejected random steps from the last proposal before random draws."""
DRAWS = 512
"""Rejected random draws before the space counts as exhausted."""
FIRST = 5
"""Failures before any success at which a search gives up."""


class Phase(Enum):
    """State of a search."""

    PROPOSING = "candidates become trials"
    WAITING = "no more candidates until pending ones are done"
    PAUSED = "the Tune run has had its share of candidates; another run continues"
    COMPLETE = "as many architectures are evaluated as were asked for"
    EXHAUSTED = "nothing new and affordable was found, however often it was tried"
    HOPELESS = "so many evaluations failed, or one for such a reason, that more would too"


@dataclass(frozen=True)
class Candidate:
    """An architecture under evaluation, and its Optuna trial."""

    trial: optuna.Trial
    key: str
    arch: dict[str, Any]


class ArchitectureSearcher(Searcher):
    """Proposes architectures that have not been evaluated, and reports their results to Optuna.

    A known proposal is answered from the ledger, and one that breaks a bound on cost is answered as
    infeasible: neither takes a trial. Ray's own ``OptunaSearch`` can do neither, reads constraints
    before values exist, and leaves a trial with a NaN running for ever.

    Args:
        space: the search space.
        objectives: ledger columns and their directions.
        conditions: bounds on ledger columns; those on ``macs`` and ``parameters`` are checked before evaluation.
        sampler: the Optuna sampler.
        provenance: computes the keys of architectures.
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
        self._exhausted = False
        self._distributions = distributions(space.domains)
        self._study = optuna.create_study(
            directions=[DIRECTIONS[o.maximise] for o in objectives], sampler=sampler
        )
        for record in records:
            self._replay(record)
        self._earlier = len(self.done)
        self._first = deque([*first, space.largest, space.smallest])

    def share(self, candidates: int) -> None:
        """Limit the next Tune run to this number of candidates; another run can continue."""
        self._share = candidates

    @property
    def phase(self) -> Phase:
        """Current state of the search."""
        if self._is_hopeless():
            phase = Phase.HOPELESS
        elif len(self.done) + len(self._pending) >= self.evaluations:
            phase = Phase.COMPLETE
        elif self._exhausted:
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
        # With one more result, a sampler may find something new.
        self._exhausted = False
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
        # A Tuner pickles its searcher to restore it. This one resumes from the ledger instead.
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Write an empty file: Tune's checkpoints hold no state of the search."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing; see ``save``."""

    def _is_hopeless(self) -> bool:
        succeeded = len(self.done) - self._earlier
        limit = max(FIRST, self.evaluations) if succeeded else FIRST
        return len(self.failures) >= limit or any(failure.hopeless for failure in self.failures)

    def _next(self) -> Candidate | None:
        while self._first:
            arch = self._first.popleft()
            if self._is_new(arch):
                return self._candidate(self._ask_for(arch))
        for _ in range(ASKS):
            trial = self._study.ask(self._distributions)
            candidate = self._candidate(trial)
            if candidate is not None:
                return candidate
        for params in chain(self._walk(trial.params), self._random()):
            if self._is_new(self._space.canonical(params)):
                return self._candidate(self._ask_for(params))
        self._exhausted = True
        return None

    def _walk(self, params: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Random walk from ``params``: each step redraws one parameter."""
        for _ in range(STEPS):
            redrawn = self._draw.choice(list(params))
            kept = {key: value for key, value in params.items() if key != redrawn}
            params = complete(kept, self._distributions, self._draw.getrandbits(32))
            yield params

    def _random(self) -> Iterator[dict[str, Any]]:
        """Random architectures from the space's prior."""
        for _ in range(DRAWS):
            draw = self._space.draw(np.random.default_rng(self._draw.getrandbits(32)))
            yield complete(draw, self._distributions, self._draw.getrandbits(32))

    def _candidate(self, trial: optuna.Trial) -> Candidate | None:
        """The candidate of a proposal; None when it is answered without an evaluation."""
        arch = self._space.canonical(trial.params)
        key = self._provenance.key(arch)
        trial.set_user_attr(LIVE, list(arch))
        if key in self.done:
            self._tell(trial, self.done[key])
        elif key in self._failed or self._is_pending(key):
            self._study.tell(trial, state=TrialState.FAIL)
        elif self._breaks_cost_bound(arch):
            self.too_dear += 1
            self._tell_infeasible(trial, arch)
        else:
            return Candidate(trial, key, arch)
        return None

    def _is_new(self, arch: Mapping[str, Any]) -> bool:
        key = self._provenance.key(arch)
        known = key in self.done or key in self._failed or self._is_pending(key)
        return not known and not self._breaks_cost_bound(arch)

    def _is_pending(self, key: str) -> bool:
        return any(candidate.key == key for candidate in self._pending.values())

    def _ask_for(self, arch: Mapping[str, Any]) -> optuna.Trial:
        self._study.enqueue_trial(complete(arch, self._distributions, self._provenance.key(arch)))
        return self._study.ask(self._distributions)

    def _replay(self, record: Record) -> None:
        # By ask and tell, not add_trial: samplers keep state on the trials they were asked for.
        trial = self._ask_for(record.architecture)
        trial.set_user_attr(LIVE, list(record.architecture))
        metrics = self._metrics(record.metrics)
        self.done[record.key] = metrics
        self._tell(trial, metrics)

    def _tell(self, trial: optuna.Trial, metrics: Mapping[str, float]) -> None:
        for condition in self._conditions:
            trial.set_constraint(str(condition), condition.violation(metrics))
        self._study.tell(trial, [metrics[objective.column] for objective in self._objectives])

    def _tell_infeasible(self, trial: optuna.Trial, arch: Mapping[str, Any]) -> None:
        cost = self._cost(arch)
        for condition in self._on_cost:
            trial.set_constraint(str(condition), condition.violation(cost))
        worst = [-math.inf if objective.maximise else math.inf for objective in self._objectives]
        values = [cost.get(o.column, w) for o, w in zip(self._objectives, worst, strict=True)]
        self._study.tell(trial, values)

    def _breaks_cost_bound(self, arch: Mapping[str, Any]) -> bool:
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
