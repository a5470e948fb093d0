"""Search status: a small JSON file in the study's folder, also served by the run's named actor."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from manynet.errors import ManynetError
from manynet.storage import join, read_json, write_bytes

FILE = "search.json"
"""Name of the file in the study's folder."""
NAMESPACE = "manynet"
PREFIX = "search:"
"""Prefix of the name of a search's actor; the study's address follows."""


class StatusError(ManynetError, ValueError):
    """A status file has another format."""


class Member(BaseModel):
    """One architecture of the front."""

    model_config = ConfigDict(frozen=True)

    architecture: dict[str, Any]
    metrics: dict[str, float]


class SearchStatus(BaseModel):
    """A search at one moment."""

    model_config = ConfigDict(frozen=True)

    study: str = Field(description="address of the study's folder")
    space: str = Field(description="name of the space")
    state: Literal["searching", "ended", "stopped"]
    objectives: list[str] = Field(description="<column>:max or <column>:min")
    constraints: list[str]
    done: int = Field(description="distinct architectures evaluated, earlier starts included")
    evaluations: int = Field(description="how many are wanted")
    failed: int
    evaluators: int
    per_second: float = Field(description="candidates a second, over the last minute")
    seconds_left: float | None = Field(description="at that rate; None while it is not known")
    idle_share: float | None = Field(description="of evaluators' time, over the last minute")
    hypervolume: float = Field(description="share of the box of feasible values that the front dominates")
    hypervolumes: list[tuple[int, float]] = Field(description="(done, hypervolume), oldest first")
    front: list[Member] = Field(description="best first by the first objective")
    updated: float = Field(description="when this was true, seconds since 1970")

    @property
    def line(self) -> str:
        """The status in one line."""
        share = "" if self.idle_share is None else f", evaluators idle {self.idle_share:.0%}"
        failed = f", {self.failed} failed" if self.failed else ""
        return (
            f"{self.state}: {self.done} of {self.evaluations}{failed}, {self.per_second:.2f}/s{share}, "
            f"front of {len(self.front)}, hypervolume {self.hypervolume:.4f}"
        )


def read(folder: str) -> SearchStatus | None:
    """The search status in a study's folder; None where there is none yet.

    Raises:
        StorageError: the file cannot be read.
        StatusError: the file has another format.
    """
    content = read_json(join(folder, FILE))
    if content is None:
        return None
    try:
        return SearchStatus(**content)
    except (ValidationError, TypeError):
        raise StatusError(
            f"{join(folder, FILE)} must hold a search's status, but holds something else"
        ) from None


def write(folder: str, status: SearchStatus) -> None:
    """Write a study's status file atomically.

    Raises:
        StorageError: it cannot be written.
    """
    write_bytes(join(folder, FILE), status.model_dump_json().encode())
