"""Reads the status of searches on a Ray cluster from their named actors."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError

from manynet.cli.watching.study_folder import Step, StudyStatus
from manynet.errors import first_line
from manynet.runtime.ray_session import TOKEN, ClusterError, check_listens
from manynet.storage import basename
from manynet.telemetry.search_status import NAMESPACE, PREFIX, SearchStatus

SECONDS_TO_ANSWER = 10.0


class Cluster:
    """A Ray cluster that this process joins to read the status of its searches.

    Args:
        address: ``auto``, ``host:port`` or ``ray://host:port``.

    Raises:
        ClusterError: it cannot be reached, or rejects the token.
    """

    def __init__(self, address: str) -> None:
        check_listens(address, f"a Ray cluster must listen at {address!r}, but nobody does")
        try:
            ray.init(address, namespace=NAMESPACE, logging_level=logging.ERROR, log_to_driver=False)
        except (ConnectionError, RuntimeError, ValueError, RayError) as error:
            raise ClusterError(
                f"a Ray cluster must run at {address!r} and take {TOKEN}, but Ray says: {first_line(error)}"
            ) from None
        self._studies: dict[str, StudyStatus] = {}

    def read(self) -> Sequence[StudyStatus]:
        """All searches so far; those whose actor is gone with their last status.

        Raises:
            ClusterError: the cluster is gone.
        """
        try:
            named = ray.util.list_named_actors(all_namespaces=True)
            alive = sorted(actor["name"] for actor in named if _is_search(actor))
            for name in alive:
                self._update(name)
        except (RayError, ConnectionError, RuntimeError) as error:
            raise ClusterError(f"the Ray cluster must answer, but Ray says: {first_line(error)}") from None
        self._studies = {
            name: study if name in alive else replace(study, gone=True)
            for name, study in self._studies.items()
        }
        return [self._studies[name] for name in sorted(self._studies)]

    def _update(self, actor: str) -> None:
        try:
            handle = ray.get_actor(actor, NAMESPACE)
            answer: Any = ray.get(handle.status.remote(), timeout=SECONDS_TO_ANSWER)
            status = SearchStatus(**answer)
        except (RayActorError, GetTimeoutError, ValueError):
            # It ended after it was listed, or is busy: its last status is kept.
            return
        self._studies[actor] = _study_status(status)


def _study_status(search: SearchStatus) -> StudyStatus:
    step: Step = "done" if search.state == "ended" else "search"
    return StudyStatus(
        basename(search.study), search.study, search.space, step, ["search"], search.updated, search=search
    )


def _is_search(actor: dict[str, str]) -> bool:
    return actor["namespace"] == NAMESPACE and actor["name"].startswith(PREFIX)
