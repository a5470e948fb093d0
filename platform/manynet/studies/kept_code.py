"""The code of a space that no module holds, kept in its study's folder by value.

A space that is declared in a script, under ``if __name__ == "__main__"`` or in a notebook cannot be imported again
without running what stands around it. So its study keeps the space itself, with the classes and functions it needs.
Only what goes on with a study loads it, never what reads one.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ray import cloudpickle

from manynet.errors import typed_line
from manynet.references import modules_beside
from manynet.space.search_space import SearchSpace
from manynet.storage import exists, join, read_bytes, write_bytes
from manynet.studies.on_record import StudyError

KEPT = "space.pickle"


def is_importable(reference: str | None) -> bool:
    """Whether a reference names a module, which a new process imports; a script would be run."""
    return bool(reference) and ".py:" not in str(reference)


def keep(folder: str, space: SearchSpace) -> None:
    """Keep a space in the folder of its study, unless it is there.

    Raises:
        StudyError: for a space that holds something that cannot be pickled.
        StorageError: the folder cannot be written.
    """
    address = join(folder, KEPT)
    if exists(address):
        return
    try:
        content = _pickled(space)
    except Exception as error:
        raise StudyError(
            f"space {space.name!r} must be pickled, to be sent to workers and kept, but raised {typed_line(error)}"
        ) from error
    write_bytes(address, content)


def load(folder: str) -> SearchSpace | None:
    """The space that a study's folder keeps, or None. This runs its code.

    Raises:
        StudyError: when it cannot be loaded.
    """
    address = join(folder, KEPT)
    if not exists(address):
        return None
    try:
        space = pickle.loads(read_bytes(address))
    except Exception as error:
        raise StudyError(f"{address} must hold the study's space, but raised {typed_line(error)}") from error
    if not isinstance(space, SearchSpace):
        raise StudyError(f"{address} must hold the study's space, but holds {space!r:.80}")
    return space


def _pickled(space: SearchSpace) -> bytes:
    # A module beside the script may hold what cannot be pickled, such as a lock. It must then be found again.
    with suppress(Exception), _by_value():
        return cloudpickle.dumps(space)  # type: ignore[no-any-return]
    return cloudpickle.dumps(space)  # type: ignore[no-any-return]


@contextmanager
def _by_value() -> Iterator[None]:
    """Inside, modules that lie beside the main script are pickled by value, as the script itself always is."""
    main = getattr(sys.modules["__main__"], "__file__", None)
    modules = modules_beside(Path(main).resolve().parent) if main is not None else []
    known = cloudpickle.list_registry_pickle_by_value()
    added = [module for module in modules if module.__name__ not in known]
    for module in added:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in added:
            cloudpickle.unregister_pickle_by_value(module)
