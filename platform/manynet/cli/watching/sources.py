"""What can be watched: a study, a sweep of several, or the searches that run on a Ray cluster."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from manynet.cli.watching.study_folder import EXPERIMENT, Seen, read_study
from manynet.config.experiment import parse_experiment, variants
from manynet.errors import ManynetError
from manynet.storage import absolute, exists, join, read_bytes

Source = Callable[[], Sequence[Seen]]
"""Reads how far one or several studies are, now."""

_HOST_AND_PORT = re.compile(r"[\w.-]+:\d+|\[[\da-fA-F:]+\]:\d+")


class WatchError(ManynetError):
    """There is nothing to watch at an address."""


def source(given: str) -> Source:
    """What reads how far that is which the user named.

    Args:
        given: folder of a study or a sweep, or its filesystem address; or the address of a Ray cluster: ``auto``,
            ``host:port`` or ``ray://host:port``.

    Raises:
        WatchError: there is no such study, and no such cluster.
        StorageError: the address names no filesystem.
        ClusterError: the cluster cannot be reached.
    """
    if is_cluster(given):
        # Ray takes half a second to import, which a folder need not wait.
        from manynet.cli.watching.ray_cluster import Cluster

        return Cluster(given).read
    folder = absolute(given)
    address = join(folder, EXPERIMENT)
    if not exists(address):
        raise WatchError(
            f"a run must be the folder of a study (one that holds {EXPERIMENT}) or the address of a Ray cluster "
            f"(auto, host:port or ray://host:port), but got {given!r}"
        )
    experiment = parse_experiment(read_bytes(address).decode(), address)
    folders = [join(folder, one) for one in variants(experiment)] if experiment.sweep else [folder]
    return lambda: [read_study(one) for one in folders]


def is_cluster(given: str) -> bool:
    """Whether an address is that of a Ray cluster, rather than of a folder."""
    if given == "auto" or given.startswith("ray://"):
        return True
    return bool(_HOST_AND_PORT.fullmatch(given)) and not Path(given).exists()
