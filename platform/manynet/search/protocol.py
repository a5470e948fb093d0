"""Goals and protocol of a search; the protocol is part of every evaluation's ledger key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from manynet.config.settings import Role, SearchSettings
from manynet.records.conditions import LATENCY
from manynet.records.goals import Goals
from manynet.search.evaluator import Provenance


class Measures(Protocol):
    """What has metrics: a task, or the facts of a study."""

    @property
    def metric(self) -> str:
        """The main one."""

    @property
    def columns(self) -> Mapping[str, bool]:
        """Each, and whether higher is better."""


def parse_goals(settings: SearchSettings, task: Measures) -> Goals:
    """Objectives and conditions of a search; by default the task's metric and latency on this host.

    Raises:
        ConditionError: one is malformed, or names a column that no evaluation has.
    """
    return Goals.parse(settings.objectives, settings.constraints, task.metric, task.columns)


def provenance(space: str, weights: str, data: str, settings: SearchSettings, goals: Goals) -> Provenance:
    """Provenance shared by all records of a search.

    Args:
        space: digest of the space.
        weights: digest of the supernet's.
        data: digest of the data.
        settings: of the search.
        goals: of the search.
    """
    return Provenance(space, weights, data, protocol(settings, goals), settings.of(Role.EFFORT))


def protocol(settings: SearchSettings, goals: Goals) -> str:
    """Scoring settings and devices as text: part of a record's ledger key, beside weights and data."""
    scoring = [f"{name}={value}" for name, value in sorted(settings.of(Role.SCORE).items())]
    return " ".join([*scoring, *(LATENCY + device for device in sorted(goals.devices))])
