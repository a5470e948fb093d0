"""The modules of a user's own that an experiment names, and where they were found."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable, Iterator, Mapping
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

from manynet.config.experiment import Experiment, variants
from manynet.config.settings import FinalistsSettings, Recipe, SearchSettings
from manynet.data.own import is_reference
from manynet.devices import DeviceName
from manynet.errors import ManynetError
from manynet.records.conditions import (
    Condition,
    Objective,
    latency_devices,
    parse_conditions,
    parse_objectives,
)
from manynet.references import CONTENT, canonical, is_manynets
from manynet.runtime.ray_session import installed

OURS = "manynet"


class ModuleMissingError(ManynetError, LookupError):
    """A study names a module that is not where it was."""


def named(experiment: Experiment) -> list[str]:
    """Top-level modules that an experiment names, Manynet's own first; scripts are files, and left out.

    Raises:
        ManynetError: for an objective, a condition or a device that is misspelt.
    """
    every = variants(experiment).values() if experiment.sweep else [experiment]
    found = (canonical(one) for each in every for one in _references(each) if one and ".py:" not in one)
    return list(dict.fromkeys([OURS, *(one.partition(":")[0].split(".")[0] for one in found)]))


def located(experiment: Experiment) -> dict[str, str]:
    """The folder of each module of a user's own that an experiment names."""
    places = {name: _folder(name) for name in named(experiment) if name != OURS}
    return {name: str(place) for name, place in places.items() if place is not None}


def find_again(folders: Mapping[str, str]) -> None:
    """Make modules importable that this process does not find, from the folders where they were.

    Raises:
        ModuleMissingError: for a module that is nowhere.
    """
    for name, folder in folders.items():
        spec = importlib.util.find_spec(name)
        hidden = spec is not None and _is_content(spec)
        if spec is not None and not hidden:
            continue
        if not any((Path(folder) / place).exists() for place in (name, f"{name}.py")):
            raise ModuleMissingError(
                f"the study names module {name}, which must be in this folder, on PYTHONPATH, or in {folder} as it "
                f"was, but is in none of them"
            )
        # Last, so that it hides nothing, but before the folder of a checkout, which Manynet's packages do not need.
        sys.path.insert(0 if hidden else len(sys.path), folder)


def _is_content(spec: ModuleSpec) -> bool:
    """Whether a package is Manynet's ``search_spaces`` or ``trainers``, found in a checkout."""
    folders = list(spec.submodule_search_locations or [])
    return spec.name in CONTENT and bool(folders) and is_manynets(spec.name, Path(folders[0]))


def _references(experiment: Experiment) -> Iterator[str]:
    yield experiment.space
    yield experiment.data if is_reference(experiment.data) else ""
    for settings in experiment.steps.values():
        if isinstance(settings, Recipe):
            yield settings.strategy
            yield from _texts(settings.strategy_options)
        if isinstance(settings, SearchSettings):
            yield settings.sampler if ":" in settings.sampler else ""
            yield from _texts(settings.sampler_options)
            wanted: list[Objective | Condition] = [
                *parse_objectives(settings.objectives or ["macs:min"]),
                *parse_conditions(settings.constraints),
            ]
            yield from _tools([*latency_devices(wanted), *settings.tables])
        if isinstance(settings, FinalistsSettings):
            yield from _tools(latency_devices(parse_conditions(settings.where)))


def _texts(options: Mapping[str, Any]) -> list[str]:
    """Options that may be references themselves, such as a strategy around another."""
    return [value for value in options.values() if isinstance(value, str) and is_reference(value)]


def _tools(devices: Iterable[str]) -> list[str]:
    names = map(DeviceName.parse, devices)
    return [name.tool for name in names if name.has_own_tool]


def _folder(module: str) -> Path | None:
    """Where a module is found that is neither installed nor Manynet's; None for others."""
    spec = importlib.util.find_spec(module) if module else None
    if spec is None:
        return None
    places = list(spec.submodule_search_locations or [])
    origin = places[0] if places else spec.origin
    if origin is None or origin in ("built-in", "frozen"):
        return None
    folder = Path(origin).resolve().parent
    return None if installed(folder) else folder
