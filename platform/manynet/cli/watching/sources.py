"""Sources to watch: a study, a sweep, or the searches on a Ray cluster."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from manynet.cli.watching.study_folder import EXPERIMENT, StudyStatus, read_study
from manynet.config.experiment import parse_experiment, variants
from manynet.errors import ManynetError
from manynet.storage import absolute, exists, join, read_bytes

Source = Callable[[], Sequence[StudyStatus]]
"""Reads the current status of one or several studies."""

_HOST_AND_PORT = re.compile(r"[\w.-]+:\d+|\[[\da-fA-F:]+\]:\d+")


class WatchError(ManynetError):
    """There is nothing to watch at an address."""


def source(given: str) -> Source:
    """The source at an address given by the user.

    Args:
        given: folder of a study or a sweep, or its filesystem address; or the address of a Ray cluster: ``auto``,
            ``host:port`` or ``ray://host:port``.

    Raises:
        WatchError: there is no such study, and no such cluster.
        StorageError: the address names no filesystem.
        ClusterError: the cluster cannot be reached.
    """
    if is_cluster(given):
        # Importing Ray takes half a second, and a folder does not need it.
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
    folders = [join(folder, name) for name in variants(experiment)] if experiment.sweep else [folder]
    return lambda: [read_study(study) for study in folders]


def is_cluster(given: str) -> bool:
    """Whether an address is that of a Ray cluster, rather than of a folder."""
    if given == "auto" or given.startswith("ray://"):
        return True
    return bool(_HOST_AND_PORT.fullmatch(given)) and not Path(given).exists()
