"""Experiment files: a study's calls as YAML, and the record that a study's folder keeps of them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from manynet.config.settings import FinalistsSettings, SearchSettings, Settings, TrainSettings
from manynet.errors import InvalidValue, ManynetError
from manynet.storage import join

P = ParamSpec("P")
S = TypeVar("S", bound=Settings)
T = TypeVar("T")
R = TypeVar("R")

STEPS: dict[str, type[Settings]] = {
    "train": TrainSettings,
    "search": SearchSettings,
    "finalists": FinalistsSettings,
}


class ExperimentError(ManynetError, ValueError):
    """An experiment file cannot be read, or asks for something that is not there."""


class Experiment(BaseModel):
    """One study: where it lives, what it searches, and the arguments of its steps, in order."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    study: str = Field(description="folder of the study, or a filesystem address")
    space: str = Field(description="module:name or script.py:name of the search space")
    data: str = Field(
        "digits",
        description="digits, flights, flights_by_time, idx:PATH, images:PATH, parquet:ADDRESS or module:name",
    )
    train: TrainSettings | None = Field(None, description="arguments of Study.train")
    search: SearchSettings | None = Field(None, description="arguments of Study.search")
    finalists: FinalistsSettings | None = Field(None, description="arguments of Study.finalists")
    sweep: dict[str, list[Any]] | None = Field(
        None, min_length=1, description="values of dotted keys: one study for each combination"
    )
    space_digest: str | None = Field(None, description="written by the study: identity of its space")

    modules: dict[str, str] | None = Field(
        None, description="written by the study: the folder of each module of the user's own"
    )

    @property
    def steps(self) -> dict[str, Settings]:
        """The steps asked for, in order."""
        return {name: getattr(self, name) for name in STEPS if getattr(self, name) is not None}

    @property
    def fixed(self) -> dict[str, Any]:
        """All that decides a result."""
        content = self.model_dump(exclude={*STEPS, "modules"})
        return content | {name: settings.fixed for name, settings in self.steps.items()}

    def to_yaml(self) -> str:
        """The file that :func:`read_experiment` reads back."""
        content = {name: value for name, value in self.model_dump().items() if value is not None}
        text: str = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
        return text


class _Loader(yaml.SafeLoader):
    """YAML as people write it: YAML 1.1 takes 1e-3 for a string."""


_Loader.yaml_implicit_resolvers = {
    first: list(pairs) for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def parse_experiment(text: str, name: str, changes: Sequence[str] = ()) -> Experiment:
    """Read an experiment from YAML.

    Args:
        text: the YAML.
        name: of the file, for messages.
        changes: ``KEY=VALUE`` with dotted keys (``train.steps=100``), which replace the file's.

    Raises:
        ExperimentError: in one line that names the key, the value and what is allowed.
    """
    return _experiment(_content(text, name, changes))


def read_experiment(path: Path, changes: Sequence[str] = ()) -> Experiment:
    """Read an experiment file; see :func:`parse_experiment`."""
    return parse_experiment(_text(path), str(path), changes)


def modules_on_record(text: str, name: str) -> dict[str, str]:
    """The key ``modules`` of an experiment file, read before the names that those modules hold."""
    modules = _content(text, name, []).get("modules")
    # What is of another kind is refused with the rest of the file.
    return {k: v for k, v in modules.items() if isinstance(v, str)} if isinstance(modules, dict) else {}


def variants(experiment: Experiment) -> dict[str, Experiment]:
    """The experiments of a sweep, each in a folder of its own under the sweep's, by that folder's name.

    Raises:
        ExperimentError, SettingsError: in one line, for a key or a value that an experiment does not take.
    """
    sweep = experiment.sweep or {}
    for key, values in sweep.items():
        if key.split(".")[0] in ("study", "sweep") or not values or len(set(map(repr, values))) < len(values):
            raise ExperimentError(
                f"sweep takes keys of the experiment besides study, each with a list of different values, "
                f"but got {key}: {values!r}"
            )
    made = {}
    for combination in itertools.product(*sweep.values()):
        changes = dict(zip(sweep, combination, strict=True))
        name = ",".join(f"{_last(key, sweep)}={value}" for key, value in changes.items())
        name = re.sub(r"[^\w.,=+-]+", "_", name)
        if name in made:
            raise ExperimentError(
                f"values of a sweep must differ in letters and digits, but got {name!r} twice"
            )
        content = experiment.model_dump(exclude_none=True, exclude={"sweep"})
        for key, value in changes.items():
            _put(content, key, value)
        made[name] = _experiment({**content, "study": join(experiment.study, name)})
    return made


def _last(key: str, others: Iterable[str]) -> str:
    """The last part of a dotted key, or the whole one where another ends likewise."""
    last = key.split(".")[-1]
    return key if sum(other.split(".")[-1] == last for other in others) > 1 else last


def _experiment(content: dict[str, Any]) -> Experiment:
    unknown = [key for key in content if key not in Experiment.model_fields]
    if unknown:
        raise ExperimentError(f"{unknown[0]} is not a key of an experiment; it takes {', '.join(_keys())}")
    for step, model in STEPS.items():
        if step in content:
            content[step] = _step(step, model, content[step])
    try:
        experiment = Experiment(**content)
    except ValidationError as error:
        raise ExperimentError(InvalidValue.first(error).line()) from None
    _check_order(experiment)
    return experiment


def read_mapping(path: Path, changes: Sequence[str] = ()) -> dict[str, Any]:
    """Read any YAML file of keys and values, with ``KEY=VALUE`` changes.

    Raises:
        ExperimentError: when it is none.
    """
    return _content(_text(path), str(path), changes)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ExperimentError(
            f"an experiment must be a readable YAML file, but got {str(path)!r}: {error}"
        ) from None


def _content(text: str, name: str, changes: Sequence[str]) -> dict[str, Any]:
    content = _yaml(text, name)
    if not isinstance(content, dict):
        raise ExperimentError(f"{name} must be a mapping of keys to values, but got {content!r}")
    for change in changes:
        _set(content, change)
    return content


def takes(model: Callable[P, S]) -> Callable[[Callable[[T, S], R]], Callable[Concatenate[T, P], R]]:
    """Let a method that wants one settings object take its fields as keyword arguments.

    So a step's arguments are declared once, and Python and experiment files say the same.
    """

    def decorate(method: Callable[[T, S], R]) -> Callable[Concatenate[T, P], R]:
        def call(self: T, /, *args: P.args, **kwargs: P.kwargs) -> R:
            if args:
                raise ExperimentError(f"{method.__name__} takes named arguments only, but got {args[0]!r}")
            return method(self, model.checked(kwargs))  # type: ignore[attr-defined]

        call.__name__, call.__doc__ = method.__name__, method.__doc__
        return call

    return decorate


def _keys() -> list[str]:
    return [key for key in Experiment.model_fields if key not in ("space_digest", "modules")]


def _yaml(text: str, name: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ExperimentError(f"{name} must be YAML, but {' '.join(str(error).split())}") from None


def _set(content: dict[str, Any], change: str) -> None:
    key, equals, value = change.partition("=")
    if not equals or not key:
        raise ExperimentError(f"a change must be KEY=VALUE, but got {change!r}")
    _put(content, key.strip(), _yaml(value, change))


def _put(content: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key."""
    *parents, last = key.split(".")
    for parent in parents:
        content[parent] = content.get(parent) or {}
        content = content[parent]
        if not isinstance(content, dict):
            raise ExperimentError(f"{key} cannot be set: {parent} holds no keys")
    content[last] = value


def _step(step: str, model: type[Settings], given: Any) -> Settings:
    given = {} if given is None else given
    if not isinstance(given, Mapping):
        raise ExperimentError(
            f"{step} must be a mapping of {', '.join(model.model_fields)}, but got {given!r}"
        )
    return model.checked({str(key): value for key, value in given.items()})  # type: ignore[no-any-return]


def _check_order(experiment: Experiment) -> None:
    steps = list(experiment.steps)
    expected = list(STEPS)[: len(steps)]
    if steps != expected:
        missing = next(step for step in expected if step not in steps)
        raise ExperimentError(f"{steps[-1]} needs {missing}, but the experiment has only {', '.join(steps)}")
