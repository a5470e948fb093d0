"""Connects a study to Ray: to the current session, the cluster at ``RAY_ADDRESS``, or a new local Ray."""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

import ray

from manynet.devices import resources
from manynet.errors import ManynetError
from manynet.runtime import nodes

ADDRESS = "RAY_ADDRESS"
TOKEN = "the token (RAY_AUTH_TOKEN, or the file RAY_AUTH_TOKEN_PATH, with RAY_AUTH_MODE=token)"
_SECONDS = 10.0


class ClusterError(ManynetError, RuntimeError):
    """A cluster cannot be joined: no answer, an invalid token, or another version of Ray or Python."""


def connect(device_names: Iterable[str] = (), folder: str | None = None) -> None:
    """Connect to Ray unless connected: to ``RAY_ADDRESS`` where it is set, else to a new local Ray.

    Args:
        device_names: devices that a new local Ray offers as custom resources.
        folder: of a study; checks that all nodes of a cluster reach it, see :mod:`manynet.runtime.nodes`.

    Raises:
        ClusterError: the cluster cannot be joined, or its processes would import something else as Manynet.
        NodesError: a node does not meet the study's requirements.
    """
    _check_not_hidden()
    joined = not ray.is_initialized() and bool(os.environ.get(ADDRESS))
    if joined:
        join(os.environ[ADDRESS])
    elif not ray.is_initialized():
        _start(device_names)
    # A single-node Ray that this process did not join was started by it.
    if folder is not None and (joined or len(ray.nodes()) > 1):
        nodes.check(folder)


def _check_not_hidden() -> None:
    """Refuse a module ``manynet`` in the current folder, which Ray's processes search first."""
    ours = Path(__file__).parent.parent / "__init__.py"
    for place in (Path("manynet", "__init__.py"), Path("manynet.py")):
        if place.is_file() and not place.samefile(ours):
            raise ClusterError(
                f"{place.resolve()} would hide Manynet from Ray's processes: rename it, or start in another folder"
            )


def _start(device_names: Iterable[str]) -> None:
    ray.init(
        address="local",
        resources=resources(device_names),
        runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(_source_roots())}},
        logging_level=logging.WARNING,
        log_to_driver=False,
    )


def join(address: str) -> None:
    """Connect to the cluster at ``address``, ``host:port``.

    Raises:
        ClusterError: it cannot be joined.
    """
    if address.startswith("http"):
        raise ClusterError(
            f"{ADDRESS} must be host:port of a cluster that this machine is part of, but got {address}: "
            f"a dashboard takes jobs (`manynet submit`)"
        )
    check_listens(address, f"{ADDRESS} must be where a cluster answers, but at {address}")
    try:
        ray.init(address, logging_level=logging.WARNING)
    except (ConnectionError, ray.exceptions.AuthenticationError):
        raise ClusterError(f"the cluster at {address} must accept {TOKEN}, but did not") from None
    except RuntimeError as error:
        raise ClusterError(
            f"the cluster at {address} could not be joined: {' '.join(str(error).split())}"
        ) from None


def check_listens(address: str, rule: str) -> None:
    """Connect to the port of ``host:port`` or ``ray://host:port``; other addresses pass.

    Without this check Ray takes minutes, ends the process, or reports the same error as for an invalid token.

    Raises:
        ClusterError: ``rule`` and the reason, if nothing listens there.
    """
    url = urlsplit(address if "://" in address else f"//{address}")
    try:
        if url.port is not None:
            socket.create_connection((url.hostname, url.port), _SECONDS).close()
    except (OSError, ValueError) as error:
        raise ClusterError(f"{rule}: {error}") from None


def _source_roots() -> list[str]:
    """Import paths of this process besides installed packages, which workers get too."""
    roots = [str(Path(entry or ".").resolve()) for entry in sys.path]
    return [root for root in dict.fromkeys(roots) if Path(root).is_dir() and not installed(Path(root))]


def installed(path: Path) -> bool:
    """Whether a resolved path is part of the Python installation."""
    return any(path.is_relative_to(Path(prefix).resolve()) for prefix in (sys.prefix, sys.base_prefix))
