"""What a study is of, kept in its folder: enough to read what it found, without its space's code or its data."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from manynet.data import Data
from manynet.errors import InvalidValue
from manynet.space.search_space import SearchSpace
from manynet.storage import exists, join, read_bytes, write_bytes
from manynet.studies.on_record import StudyError

FACTS = "facts.json"


class Facts(BaseModel):
    """Names and identities of a study's space and data, and what its task measures.

    Attributes:
        space: name of the space.
        space_digest: its identity.
        data: name of the data.
        data_digest: their identity.
        metric: of the task, the main one; higher is better.
        columns: of each metric, whether higher is better.
        baseline: name and test metric of a plain model, once it was fitted.
    """

    model_config = ConfigDict(frozen=True)

    space: str
    space_digest: str
    data: str
    data_digest: str
    metric: str
    columns: dict[str, bool]
    baseline: tuple[str, float] | None = None

    @classmethod
    def of(cls, space: SearchSpace, data: Data) -> Self:
        """The facts of a space that was made for its data."""
        task = space.task
        return cls(
            space=space.name,
            space_digest=space.digest,
            data=data.name,
            data_digest=data.digest,
            metric=task.metric,
            columns=dict(task.columns),
        )

    def baseline_of(self, other: Facts) -> tuple[str, float] | None:
        """The baseline, if ``other`` is of the same data and task."""
        same = (self.data_digest, self.metric) == (other.data_digest, other.metric)
        return self.baseline if same else None


def read(folder: str) -> Facts | None:
    """The facts that a study's folder holds, or None.

    Raises:
        StudyError: when the file holds something else.
        StorageError: it cannot be read.
    """
    address = join(folder, FACTS)
    if not exists(address):
        return None
    try:
        return Facts.model_validate_json(read_bytes(address))
    except ValidationError as error:
        raise StudyError(
            f"{address} must hold a study's facts, but {InvalidValue.first(error).line()}; delete it, and `manynet resume` writes it again"
        ) from None


def write(folder: str, facts: Facts) -> None:
    """Write the file atomically.

    Raises:
        StorageError: it cannot be written.
    """
    write_bytes(join(folder, FACTS), facts.model_dump_json(indent=1).encode())
