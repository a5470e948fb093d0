"""JSON file of a study's finalists, for monitoring."""

from __future__ import annotations

import json
from collections.abc import Sequence

from pydantic import TypeAdapter, ValidationError

from manynet.storage import join, read_json, write_bytes
from manynet.telemetry.search_status import Member, StatusError

FILE = "winners.json"
"""Name of the file in the study's folder; written when all winners are there."""
_MEMBERS = TypeAdapter(list[Member])


def read(folder: str) -> list[Member] | None:
    """The winners, best first; None while there are none.

    Raises:
        StorageError: the file cannot be read.
        StatusError: the file has another format.
    """
    content = read_json(join(folder, FILE))
    try:
        return None if content is None else _MEMBERS.validate_python(content)
    except ValidationError:
        raise StatusError(f"{join(folder, FILE)} must hold winners, but holds something else") from None


def write(folder: str, winners: Sequence[Member]) -> None:
    """Write the file atomically, if it does not hold these winners.

    Raises:
        StorageError: it cannot be written.
    """
    if read(folder) != list(winners):
        content = [winner.model_dump() for winner in winners]
        write_bytes(join(folder, FILE), json.dumps(content, indent=1).encode())
