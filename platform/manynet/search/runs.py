"""Searches a supernet: candidates run as Ray Tune trials on reused actors and end in the ledger.

A supernet is one network whose weights all subnets of a space share.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

import optuna
import ray
import torch

from manynet.config.settings import SearchSettings
from manynet.data import Data
from manynet.records.conditions import COST
from manynet.records.goals import Goals
from manynet.records.ledger import Ledger, Record
from manynet.search import trackers
from manynet.search import tune as tune_run
from manynet.search.checks import SearchError, check
from manynet.search.evaluator import Prepare, Provenance
from manynet.search.monitored import monitored
from manynet.search.progress import Progress
from manynet.search.protocol import parse_goals, provenance
from manynet.search.scoring import Lease, Measure, Scoring
from manynet.search.searcher import ASKS, DRAWS, STEPS, ArchitectureSearcher, Phase
from manynet.search.tally import SearchPlan
from manynet.space.search_space import Architecture, SearchSpace
from manynet.space.tasks import Task
from manynet.storage import absolute
from manynet.telemetry.search_status import Member

logger = logging.getLogger(__name__)

CANDIDATES_A_RUN = 2000
"""Limit of one Tune run: Tune keeps every trial in the driver's memory (50 KB) and scans all at every step."""


def search(
    space: SearchSpace,
    weights: Mapping[str, torch.Tensor],
    data: Data,
    settings: SearchSettings,
    ledger: Ledger,
    folder: str | Path,
    *,
    weights_digest: str,
    measure: Measure | None = None,
    lease: Lease = nullcontext,
    first: Sequence[Architecture] = (),
) -> list[Record]:
    """Search ``space`` under trained ``weights``; see :func:`run` for its result and errors.

    Args:
        space: the search space.
        weights: the supernet's ``state_dict``.
        data: subnets are scored on its validation split and calibrated on its train split.
        settings: of the search.
        ledger: takes every evaluation.
        folder: the study's; Tune's own state goes to ``search`` in it.
        weights_digest: identity of ``weights``.
        measure: measures latencies by device name; required for ``latency@`` columns.
        lease: the right to compute on this host; entered once a batch by every evaluator.
        first: architectures to evaluate before any other.
    """
    goals = parse_goals(settings, space.task)
    if measure is None and goals.devices:
        raise SearchError(
            f"a latency column needs a device that measures, but got none for {goals.devices[0]!r}"
        )
    prepare = Scoring(space, ray.put(dict(weights)), data, settings, measure, lease)
    origin = provenance(space.digest, weights_digest, data.digest, settings, goals)
    return run(space, settings, ledger, prepare, origin, folder, first)


def run(
    space: SearchSpace,
    settings: SearchSettings,
    ledger: Ledger,
    prepare: Prepare,
    provenance: Provenance,
    folder: str | Path,
    first: Sequence[Architecture] = (),
) -> list[Record]:
    """Evaluate until ``settings.evaluations`` distinct architectures are in the ledger.

    Evaluations of the same provenance that are there already count, and prime the sampler: after a
    kill, the same call does the rest.

    Args:
        space: the search space.
        settings: objectives, constraints, sampler, numbers of evaluations and of parallel evaluators.
        ledger: where evaluators write each record before they report it.
        prepare: called once in each evaluator's process; returns the evaluation function.
        provenance: determines a score besides the architecture.
        folder: local path or filesystem address; Tune's own state goes to ``search`` in it.
        first: architectures to evaluate before any other.

    Returns:
        All evaluations under ``provenance``, oldest first.

    Raises:
        ConditionError: an objective or constraint is malformed.
        SamplerError: the sampler is unknown, or does not take these options.
        SearchError: no subnet can meet a constraint, the first evaluations all fail, or none is feasible.
        MonitorError: another run searches the same study now.
    """
    goals = parse_goals(settings, space.task)
    sampler = check(space, settings, goals)
    records = [record for record in ledger.read() if provenance.made(record)]
    if len(records) >= settings.evaluations:
        return records
    tune_run.quiet()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    searcher = ArchitectureSearcher(
        space,
        goals.objectives,
        goals.conditions,
        sampler,
        provenance,
        evaluations=settings.evaluations,
        seed=settings.seed,
        records=records,
        first=first,
    )
    counts = (settings.evaluations, settings.evaluators)
    plan = SearchPlan(absolute(folder), space.name, goals.objectives, goals.conditions, *counts)
    earlier = [Member(architecture=dict(r.architecture), metrics=dict(r.metrics)) for r in records]
    errors: list[BaseException] = []
    with (
        monitored(plan, _columns(goals, space.task), earlier) as monitor,
        Progress(searcher, goals.objectives, goals.conditions, list(space.domains)) as progress,
    ):
        while True:
            searcher.share(CANDIDATES_A_RUN)
            callbacks = [progress, monitor, *trackers.callbacks(settings.trackers, absolute(folder))]
            errors += tune_run.fit(
                searcher, prepare, ledger, provenance, folder, settings.evaluators, callbacks
            )
            if searcher.phase in (Phase.PROPOSING, Phase.WAITING):
                # Tune returns normally on an interrupt; the steps that follow must not run.
                raise KeyboardInterrupt
            ledger.compact()
            if searcher.phase is not Phase.PAUSED:
                break
    _check_end(searcher, goals, errors)
    return [record for record in ledger.read() if provenance.made(record)]


def _columns(goals: Goals, task: Task) -> list[str]:
    """Columns of an evaluation that are published."""
    return list(dict.fromkeys([*goals.columns, *task.columns, *COST]))


def _check_end(searcher: ArchitectureSearcher, goals: Goals, errors: list[BaseException]) -> None:
    """Raise or warn when a search ended early."""
    if searcher.phase is Phase.HOPELESS:
        cause = f" ({str(errors[-1]).strip().splitlines()[-1]})" if errors else ""
        raise SearchError(
            f"evaluations must succeed, but {len(searcher.failures)} failed, "
            f"the last with {searcher.failures[-1].reason}{cause}"
        )
    if searcher.phase is not Phase.EXHAUSTED:
        return
    proposals = ASKS + STEPS + DRAWS
    if not searcher.done:
        texts = " and ".join(map(str, goals.conditions))
        raise SearchError(
            f"constraints must leave architectures to evaluate, but none of {proposals} met '{texts}'"
        )
    logger.warning(
        "search ended after %d of %d evaluations: no new architecture in %d proposals",
        len(searcher.done),
        searcher.evaluations,
        proposals,
    )
