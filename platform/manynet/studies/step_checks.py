"""Checks a step's settings before anything expensive starts."""

from __future__ import annotations

from manynet.config.settings import FinalistsSettings, SearchSettings, Settings, TrainSettings
from manynet.records.conditions import check_columns, parse_conditions
from manynet.search import checks
from manynet.search.protocol import parse_goals
from manynet.space.search_space import SearchSpace
from manynet.studies import devices
from manynet.training import runs as training


def check_step(settings: Settings, space: SearchSpace, folder: str) -> None:
    """Refuse settings that a step would fail on.

    Args:
        settings: of a step.
        space: of the study.
        folder: of the study.

    Raises:
        ManynetError: as the step would, but at once.
    """
    if type(settings) is TrainSettings:
        training.check(settings, "supernet")
    elif type(settings) is SearchSettings:
        _check_search(settings, space, folder)
    elif type(settings) is FinalistsSettings:
        _check_finalists(settings, space)


def _check_search(settings: SearchSettings, space: SearchSpace, folder: str) -> None:
    goals = parse_goals(settings, space.task)
    checks.check(space, settings, goals)
    devices.check(space, goals.devices, settings, folder)


def _check_finalists(settings: FinalistsSettings, space: SearchSpace) -> None:
    training.check(settings.finalist, "subnet")
    training.check(settings.anchor, "subnet")
    check_columns(parse_conditions(settings.where), space.task.columns)
