"""Goals and protocol of a search; the protocol is part of every evaluation's ledger key."""

from __future__ import annotations

from manynet.config.settings import Role, SearchSettings
from manynet.data import Data
from manynet.records.conditions import LATENCY
from manynet.records.goals import Goals
from manynet.search.evaluator import Provenance
from manynet.space.search_space import SearchSpace
from manynet.space.tasks import Task


def parse_goals(settings: SearchSettings, task: Task) -> Goals:
    """Objectives and conditions of a search; by default the task's metric and latency on this host.

    Raises:
        ConditionError: one is malformed, or names a column that no evaluation has.
    """
    return Goals.parse(settings.objectives, settings.constraints, task.metric, task.columns)


def provenance(
    space: SearchSpace, weights_digest: str, data: Data, settings: SearchSettings, goals: Goals
) -> Provenance:
    """Provenance shared by all records of a search."""
    made_with = settings.of(Role.EFFORT)
    return Provenance(space.digest, weights_digest, data.digest, protocol(settings, goals), made_with)


def protocol(settings: SearchSettings, goals: Goals) -> str:
    """Scoring settings and devices as text: part of a record's ledger key, beside weights and data."""
    scoring = [f"{name}={value}" for name, value in sorted(settings.of(Role.SCORE).items())]
    return " ".join([*scoring, *(LATENCY + device for device in sorted(goals.devices))])
