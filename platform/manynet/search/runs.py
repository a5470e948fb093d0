"""Search a supernet: candidates run as Ray Tune trials on evaluators that are kept, and end in the ledger."""

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
from manynet.search.monitor import monitored
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
"""Of one Tune run: it keeps every trial in the driver's memory (50 KB) and looks through them at every step."""


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
    """Search ``space`` under trained ``weights``; see :func:`run` for what is returned and raised.

    Args:
        space: what is searched.
        weights: the supernet's ``state_dict``.
        data: the validation split scores, the train split calibrates.
        settings: of the search.
        ledger: where every evaluation ends.
        folder: of the study; Tune's own state goes to ``search`` in it.
        weights_digest: identity of ``weights``.
        measure: gives latencies by device name; needed where a ``latency@`` column is asked for.
        lease: entered once a batch by every evaluator.
        first: architectures to evaluate before any other.
    """
    goals = parse_goals(settings, space.task)
    if measure is None and goals.devices:
        raise SearchError(
            f"a latency column needs a device that measures, but got none for {goals.devices[0]!r}"
        )
    prepare = Scoring(space, ray.put(dict(weights)), data, settings, measure, lease)
    made = provenance(space, weights_digest, data, settings, goals)
    return run(space, settings, ledger, prepare, made, folder, first)


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

    Those already there under the same provenance count, and prime the sampler: after a kill, the same
    call does what is missing.

    Args:
        space: what is searched.
        settings: objectives, constraints, sampler, how many evaluations, how many side by side.
        ledger: where evaluators write each record before they report it.
        prepare: called once in each evaluator's process, returns the evaluation.
        provenance: what decides a score besides the architecture.
        folder: local path or filesystem address; Tune's own state goes to ``search`` in it.
        first: architectures to evaluate before any other.

    Returns:
        All evaluations under ``provenance``, oldest first.

    Raises:
        ConditionError: an objective or constraint is misspelt.
        SamplerError: there is no such sampler, or it does not take these options.
        SearchError: a constraint is out of reach, the first evaluations all fail, or nothing feasible
            is found.
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
        monitored(plan, _columns(goals, space.task), earlier) as telling,
        Progress(searcher, goals.objectives, goals.conditions, list(space.domains)) as progress,
    ):
        while True:
            searcher.share(CANDIDATES_A_RUN)
            heard = [progress, telling, *trackers.callbacks(settings.trackers, absolute(folder))]
            errors += tune_run.fit(searcher, prepare, ledger, provenance, folder, settings.evaluators, heard)
            if searcher.phase in (Phase.PROPOSING, Phase.WAITING):
                # Tune ends in good order on an interrupt and says nothing; the steps that follow must not run.
                raise KeyboardInterrupt
            ledger.compact()
            if searcher.phase is not Phase.PAUSED:
                break
    _judge(searcher, goals, errors)
    return [record for record in ledger.read() if provenance.made(record)]


def _columns(goals: Goals, task: Task) -> list[str]:
    """Columns of an evaluation that are published."""
    return list(dict.fromkeys([*goals.columns, *task.columns, *COST]))


def _judge(searcher: ArchitectureSearcher, goals: Goals, errors: list[BaseException]) -> None:
    """Say why a search ended before its time, if it did."""
    if searcher.phase is Phase.HOPELESS:
        died = f" ({str(errors[-1]).strip().splitlines()[-1]})" if errors else ""
        raise SearchError(
            f"evaluations must succeed, but {len(searcher.failures)} failed, "
            f"the last with {searcher.failures[-1].reason}{died}"
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
