"""The searches that run on a Ray cluster, through their named actors."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError

from manynet.cli.watching.study_folder import Seen, Step
from manynet.errors import first_line
from manynet.runtime.ray_session import TOKEN, ClusterError, check_listens
from manynet.storage import basename
from manynet.telemetry.search_status import NAMESPACE, PREFIX, SearchStatus

SECONDS_TO_ANSWER = 10.0


class Cluster:
    """A Ray cluster that this process joins to ask its searches how far they are.

    Args:
        address: ``auto``, ``host:port`` or ``ray://host:port``.

    Raises:
        ClusterError: it cannot be reached, or does not let us in.
    """

    def __init__(self, address: str) -> None:
        check_listens(address, f"a Ray cluster must listen at {address!r}, but nobody does")
        try:
            ray.init(address, namespace=NAMESPACE, logging_level=logging.ERROR, log_to_driver=False)
        except (ConnectionError, RuntimeError, ValueError, RayError) as error:
            raise ClusterError(
                f"a Ray cluster must run at {address!r} and take {TOKEN}, but Ray says: {first_line(error)}"
            ) from None
        self._seen: dict[str, Seen] = {}

    def read(self) -> Sequence[Seen]:
        """Each search that was met so far; those whose actor is gone as they were last.

        Raises:
            ClusterError: the cluster is gone.
        """
        try:
            named = ray.util.list_named_actors(all_namespaces=True)
            here = sorted(one["name"] for one in named if _is_search(one))
            for actor in here:
                self._ask(actor)
        except (RayError, ConnectionError, RuntimeError) as error:
            raise ClusterError(f"the Ray cluster must answer, but Ray says: {first_line(error)}") from None
        self._seen = {
            one: seen if one in here else replace(seen, gone=True) for one, seen in self._seen.items()
        }
        return [self._seen[one] for one in sorted(self._seen)]

    def _ask(self, actor: str) -> None:
        try:
            handle = ray.get_actor(actor, NAMESPACE)
            answer: Any = ray.get(handle.status.remote(), timeout=SECONDS_TO_ANSWER)
            told = SearchStatus(**answer)
        except (RayActorError, GetTimeoutError, ValueError):
            # It ended between being listed and being asked, or is busy: what it told last stays.
            return
        self._seen[actor] = _seen(told)


def _seen(told: SearchStatus) -> Seen:
    step: Step = "done" if told.state == "ended" else "search"
    return Seen(basename(told.study), told.study, told.space, step, ["search"], told.updated, search=told)


def _is_search(actor: dict[str, str]) -> bool:
    return actor["namespace"] == NAMESPACE and actor["name"].startswith(PREFIX)
