"""The ``experiment.yaml`` of a study's folder: reads, compares and writes it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from manynet.config.experiment import Experiment, modules_on_record, parse_experiment
from manynet.config.settings import Settings
from manynet.errors import ManynetError
from manynet.runtime.modules import find_again
from manynet.storage import exists, join, read_bytes, write_bytes

EXPERIMENT = "experiment.yaml"


class StudyError(ManynetError):
    """A study's folder holds something else, or a step before this one is missing."""


def recorded(folder: str | Path, changes: Sequence[str] = ()) -> Experiment:
    """The experiment that a folder holds, of a study or of a sweep.

    Args:
        folder: local path or filesystem address; it may have been moved.
        changes: ``KEY=VALUE`` with dotted keys, which replace what is on record.

    Raises:
        StudyError: when it holds none, or a change would lead elsewhere.
        ExperimentError, SettingsError: for a change that an experiment does not take.
        ModuleMissingError: a module of the user's own is not where it was.
    """
    changed = {change.partition("=")[0].strip() for change in changes}
    for key in ("study", "space_digest", "modules"):
        if key in changed:
            raise StudyError(f"{key} of a study that has begun cannot be changed, but got a change of it")
    text, address = _text(folder)
    # First: what the user's package `trainers` holds would be looked for in Manynet's.
    find_again(modules_on_record(text, address))
    found = parse_experiment(text, address, changes)
    swept = next((key for key in changed if key in (found.sweep or {})), None)
    if swept is not None:
        raise StudyError(
            f"{swept} is swept: each study of {folder} has its own value, which cannot be changed"
        )
    return found


def read(folder: str | Path) -> Experiment:
    """The experiment that a folder holds, to be read: the modules it names need not be there.

    Raises:
        StudyError: when it holds none.
        ExperimentError, SettingsError: when the file holds something else.
    """
    return parse_experiment(*_text(folder))


def _text(folder: str | Path) -> tuple[str, str]:
    """The experiment file of a folder, and its address."""
    address = join(folder, EXPERIMENT)
    if not exists(address):
        raise StudyError(f"a study's folder must hold {EXPERIMENT}, but got {str(folder)!r}")
    return read_bytes(address).decode(), address


def kept(folder: str, asked: Experiment) -> Experiment:
    """What the folder holds, or ``asked`` where it is new.

    Raises:
        StudyError: when it holds a study of another space or other data.
    """
    if not exists(join(folder, EXPERIMENT)):
        return asked
    found = recorded(folder)
    if found.sweep:
        raise StudyError(f"{folder} holds several studies; use another folder")
    if found.space_digest != asked.space_digest:
        raise StudyError(
            f"{folder} holds a study of another space, {found.space!r} (digest {found.space_digest}), "
            f"but got {asked.space!r} (digest {asked.space_digest})"
        )
    if found.data != asked.data:
        raise StudyError(f"{folder} holds a study of data {found.data!r}, but got {asked.data!r}")
    return found


def check_same(folder: str, before: Settings | None, settings: Settings) -> None:
    """Refuse settings that decide a result otherwise than those that a step was begun with.

    Raises:
        StudyError: for the first such setting.
    """
    if before is None:
        return
    old, new = before.fixed, settings.fixed
    changed = next((name for name in new if new[name] != old[name]), None)
    if changed is None:
        return
    step = settings.step()
    raise StudyError(
        f"{step} of {folder} was begun with {changed}={old[changed]!r}, but got {new[changed]!r}; "
        f"{changed} decides {settings.role(changed).value}: use another folder, "
        f"or change only {', '.join(settings.adjustable())}"
    )


def write(folder: str, experiment: Experiment) -> None:
    """Put an experiment on record.

    Raises:
        StorageError: the folder cannot be written.
    """
    write_bytes(join(folder, EXPERIMENT), experiment.to_yaml().encode())
