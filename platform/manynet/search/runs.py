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
from manynet.errors import ManynetError
from manynet.learning.head_tuning import HEAD
from manynet.records.conditions import (
    COST,
    LATENCY,
    Condition,
    Objective,
    check_columns,
    latency_devices,
    parse_conditions,
    parse_objectives,
)
from manynet.records.ledger import Ledger, Record
from manynet.samplers import loading
from manynet.search import trackers
from manynet.search import tune as tune_run
from manynet.search.evaluator import Prepare, Provenance
from manynet.search.monitor import monitored
from manynet.search.progress import Progress
from manynet.search.scoring import Lease, Measure, Scoring
from manynet.search.searcher import ASKS, DRAWS, STEPS, ArchitectureSearcher
from manynet.search.tally import SearchPlan
from manynet.space.search_space import Architecture, SearchSpace
from manynet.space.tasks import Task
from manynet.storage import absolute
from manynet.telemetry.search_status import Member

logger = logging.getLogger(__name__)

CANDIDATES_A_RUN = 2000
"""Of one Tune run: it keeps every trial in the driver's memory (50 KB) and looks through them at every step."""


class SearchError(ManynetError, RuntimeError):
    """A search cannot start, or cannot go on."""


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
    objectives, conditions = wanted(settings, space.task)
    if measure is None and (devices := latency_devices([*objectives, *conditions])):
        raise SearchError(f"a latency column needs a device that measures, but got none for {devices[0]!r}")
    prepare = Scoring(space, ray.put(dict(weights)), data, settings, measure, lease)
    return run(
        space, settings, ledger, prepare, provenance(space, weights_digest, data, settings), folder, first
    )


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
    sampler = check(space, settings)
    objectives, conditions = wanted(settings, space.task)
    records = [record for record in ledger.read() if provenance.made(record)]
    if len(records) >= settings.evaluations:
        return records
    tune_run.quiet()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    searcher = ArchitectureSearcher(
        space,
        objectives,
        conditions,
        sampler,
        provenance,
        evaluations=settings.evaluations,
        seed=settings.seed,
        records=records,
        first=first,
    )
    counts = (settings.evaluations, settings.evaluators)
    plan = SearchPlan(absolute(folder), space.name, objectives, conditions, *counts)
    earlier = [Member(architecture=dict(r.architecture), metrics=dict(r.metrics)) for r in records]
    errors: list[BaseException] = []
    with (
        monitored(plan, _columns(plan, space.task), earlier) as telling,
        Progress(searcher, objectives, conditions, list(space.domains)) as progress,
    ):
        while not searcher.finished:
            searcher.share(CANDIDATES_A_RUN)
            heard = [progress, telling, *trackers.callbacks(settings.trackers, absolute(folder))]
            errors += tune_run.fit(searcher, prepare, ledger, provenance, folder, settings.evaluators, heard)
            if not searcher.finished and not searcher.share_is_done:
                # Tune ends in good order on an interrupt and says nothing; the steps that follow must not run.
                raise KeyboardInterrupt
            ledger.compact()
    _judge(searcher, conditions, errors)
    return [record for record in ledger.read() if provenance.made(record)]


def check(space: SearchSpace, settings: SearchSettings) -> optuna.samplers.BaseSampler:
    """Refuse settings that a search would fail on, before anything is trained for it; the sampler they ask for.

    Raises:
        ConditionError, SamplerError, SearchError: as :func:`run`.
        TrackerError: a tracker cannot be told.
    """
    trackers.check(settings.trackers)
    objectives, conditions = wanted(settings, space.task)
    check_reachable(space, conditions)
    if settings.finetune_steps and HEAD not in space.parts:
        raise SearchError(
            f"search.finetune_steps needs a supernet whose last layer is named {HEAD}, "
            f"but that of {space.name!r} has ({', '.join(space.parts)})"
        )
    return loading.load(settings.sampler, settings.sampler_options, settings.seed, objectives)


def provenance(space: SearchSpace, weights_digest: str, data: Data, settings: SearchSettings) -> Provenance:
    """What a search's records have in common."""
    return Provenance(space.digest, weights_digest, data.digest, protocol(settings, space.task))


def wanted(settings: SearchSettings, task: Task) -> tuple[list[Objective], list[Condition]]:
    """Objectives and conditions of a search, checked; by default the task's metric and latency here.

    Raises:
        ConditionError: one is misspelt or names a column no evaluation has.
    """
    default = [f"{task.metric}:max", f"{LATENCY}host/torch:min"]
    objectives = parse_objectives(default if settings.objectives is None else settings.objectives)
    conditions = parse_conditions(settings.constraints)
    check_columns([*objectives, *conditions], task.columns)
    return objectives, conditions


def protocol(settings: SearchSettings, task: Task) -> str:
    """What decides a candidate's record besides weights and data, in words: part of its ledger key."""
    objectives, conditions = wanted(settings, task)
    calibration = f"calibration={settings.calibration_batches}x{settings.batch_size}"
    latencies = [LATENCY + device for device in sorted(latency_devices([*objectives, *conditions]))]
    tuning = f"finetune={settings.finetune_steps}x{settings.batch_size}@{settings.finetune_learning_rate}"
    tuned = [tuning] if settings.finetune_steps else []
    isolated = ["isolated"] if settings.isolate and latencies else []
    words = [f"validation={settings.validation_examples}", calibration, *tuned, *latencies, *isolated]
    return " ".join(words)


def check_reachable(space: SearchSpace, conditions: list[Condition]) -> None:
    """Refuse bounds that no subnet can meet, before anything is evaluated.

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
    reach = {"<": least, ">": most, "=": min(max(condition.bound, least), most)}
    if not condition.holds({condition.column: reach[condition.operator[0]]}):
        raise SearchError(
            f"a bound on {condition.column} must be within the space's {least} to {most}, but got '{condition}'"
        )


def _columns(plan: SearchPlan, task: Task) -> list[str]:
    """Columns of an evaluation that people are told of."""
    asked = [*(o.column for o in plan.objectives), *(c.column for c in plan.conditions)]
    return list(dict.fromkeys([*asked, *task.columns, *COST]))


def _judge(searcher: ArchitectureSearcher, conditions: list[Condition], errors: list[BaseException]) -> None:
    """Say why a search ended before its time, if it did."""
    if searcher.hopeless:
        died = f" ({str(errors[-1]).strip().splitlines()[-1]})" if errors else ""
        raise SearchError(
            f"evaluations must succeed, but {len(searcher.failures)} failed, "
            f"the last with {searcher.failures[-1]}{died}"
        )
    if searcher.exhausted and not searcher.done:
        texts = " and ".join(map(str, conditions))
        raise SearchError(
            f"constraints must leave architectures to evaluate, but none of {ASKS + STEPS + DRAWS} met '{texts}'"
        )
    if searcher.exhausted:
        logger.warning(
            "search ended after %d of %d evaluations: no new architecture in %d proposals",
            len(searcher.done),
            searcher.evaluations,
            ASKS + STEPS + DRAWS,
        )
