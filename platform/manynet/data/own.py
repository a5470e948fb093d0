"""Data sets of a user's own, by ``module:name``."""

from __future__ import annotations

import re

from manynet import references
from manynet.data import bundled
from manynet.data.base import Data, DataError, Images, Split
from manynet.data.features import Features

KINDS = ("idx", "images", "parquet")
SPLITS = ("train", "validation", "test")
_REFERENCE = re.compile(r"(\w+(\.\w+)*|.+\.py):[^\W\d]\w*")


def is_reference(spec: str) -> bool:
    """Whether the text has the form ``module:name`` or ``script.py:name``, and is none of the spelled kinds."""
    return spec.partition(":")[0] not in KINDS and _REFERENCE.fullmatch(spec) is not None


def load_own(reference: str) -> Data:
    """The data set that ``module:name`` names or gives.

    Raises:
        UnknownNameError: when it gives none.
        DataError: when one of its parts is of the wrong kind, or empty.
    """
    data = references.make(Data, reference)
    for name in SPLITS:
        split = getattr(data, name)
        if not isinstance(split, Split):
            raise DataError(f"{name} of {reference!r} must be a Split, but got {split!r:.80}")
        if not len(split):
            raise DataError(f"{name} of {reference!r} must hold at least one example, but is empty")
    if not isinstance(data.features, Images | Features):
        raise DataError(
            f"features of {reference!r} must be Images or Features, but got {data.features!r:.80}"
        )
    for name in ("name", "digest"):
        value = getattr(data, name)
        if not isinstance(value, str) or not value:
            raise DataError(f"{name} of {reference!r} must be a text, but got {value!r:.80}")
    return data


def recorded_name(data: str | Data) -> str:
    """The text that a study keeps for its data, by which they are loaded again.

    Of a data set given as an object, that is ``module:name`` where a module holds it, and otherwise its name,
    which says the same where :func:`manynet.data.load` gave it.
    """
    if isinstance(data, Data):
        return data.name if is_spelled(data.name) else references.find(data) or data.name
    return references.canonical(data) if is_reference(data) else data


def is_spelled(spec: str) -> bool:
    """Whether the text has a form that :func:`manynet.data.load` takes."""
    kind, _, rest = spec.partition(":")
    return spec in bundled.__all__ or (kind in KINDS and bool(rest)) or is_reference(spec)
